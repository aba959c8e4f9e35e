//! Where a user's access token comes from.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::Context as _;
use zeroize::Zeroizing;

use crate::core::secret::Secret;

/// The environment variable that may hold it.
pub(super) const VARIABLE: &str = "RINGWAY_TOKEN";

/// Longer tokens are refused.
const LENGTH_MAX: u64 = 64 * 1024;

#[derive(Debug, clap::Args)]
pub struct TokenArgs {
    /// Your access token; others on this machine can see it, so better use
    /// --token-file or RINGWAY_TOKEN
    #[arg(long, env = VARIABLE, hide_env_values = true)]
    token: Option<Secret>,
    /// A file with your access token; used before the other two
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TokenArgs {
    /// # Errors
    /// When there is none, or it cannot stand in an HTTP header.
    pub fn read(&self) -> anyhow::Result<Secret> {
        let token = match (&self.token_file, &self.token) {
            (Some(path), _) => {
                let mut text = Zeroizing::new(String::new());
                std::fs::File::open(path)
                    .and_then(|file| file.take(LENGTH_MAX).read_to_string(&mut text))
                    .with_context(|| format!("cannot read the token file {}", path.display()))?;
                Secret::new(text.trim().to_owned())
            }
            (None, Some(token)) => Secret::new(token.expose().trim().to_owned()),
            (None, None) => anyhow::bail!(
                "no access token; put it into a file and name it with --token-file, or set {VARIABLE}"
            ),
        };
        anyhow::ensure!(
            !token.expose().is_empty() && token.expose().bytes().all(|b| b.is_ascii_graphic()),
            "the access token is empty or holds characters that no token has"
        );
        Ok(token)
    }
}
