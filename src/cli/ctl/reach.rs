//! Where `ringway ctl` and `ringway token` ask: on a Unix socket of this
//! machine, or at a broker over HTTPS.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use crate::core::codes::Code;
use crate::core::secret::Secret;
use crate::dial::http::HttpsClient;
use crate::dial::{DialError, DialLimits, Endpoint, Purpose};
use crate::tls::identity::read_roots;
use crate::tls::settings::TlsSettings;
use crate::wire::admin::{AdminResponse, HTTPS_PATH, LINE_LENGTH_MAX};

/// Where the packaged roles have their sockets, the broker's first. Those in
/// /run are for machines where `admin_uids` or `admin_gids` is set.
const SOCKETS: [&str; 4] = [
    "/var/lib/ringway/broker/admin.sock",
    "/run/ringway-broker/admin.sock",
    "/var/lib/ringway/gateway/admin.sock",
    "/run/ringway-gateway/admin.sock",
];
const TOKEN_VARIABLE: &str = "RINGWAY_ADMIN_TOKEN";
const TOKEN_BYTES_MAX: u64 = 4_096;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// A broker elsewhere.
#[derive(Debug, Default, clap::Args)]
pub struct Remote {
    /// Ask a broker over HTTPS, with the admin token in RINGWAY_ADMIN_TOKEN
    #[arg(long, global = true, value_name = "URL")]
    pub url: Option<Endpoint>,
    /// The CA of the broker's certificate, with --url [default: the public
    /// web's]
    #[arg(long, global = true, value_name = "PEM")]
    pub ca: Option<PathBuf>,
    /// File with the admin token, which nobody else may read, with --url
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// Whom to ask, and how.
#[derive(Debug)]
pub enum Reach {
    Socket(PathBuf),
    Https { broker: Endpoint, client: HttpsClient, token: Secret },
}

impl Reach {
    /// The socket that is named, or the broker that is; else the packaged
    /// role's socket.
    ///
    /// # Errors
    /// When both are named, or the token or CA cannot be read.
    pub fn new(socket: Option<&Path>, remote: &Remote) -> anyhow::Result<Self> {
        let Some(broker) = remote.url.clone() else {
            let unused = remote.ca.is_some() || remote.token_file.is_some();
            anyhow::ensure!(!unused, "--ca and --token-file go with --url");
            return Ok(Self::Socket(socket.map_or_else(default_socket, Path::to_owned)));
        };
        anyhow::ensure!(socket.is_none(), "give --socket or --url, not both");
        let tls = TlsSettings::default().client(read_roots(remote.ca.as_deref())?)?;
        let client = HttpsClient::new(tls, DialLimits::default())?;
        let longest = usize::try_from(LINE_LENGTH_MAX).unwrap_or(usize::MAX);
        let token = token(remote.token_file.as_deref())?;
        Ok(Self::Https { broker, client: client.allowing_answers_of(longest), token })
    }

    /// Asks one question. Refusals are errors here, so that scripts see them
    /// in the exit code.
    ///
    /// # Errors
    /// When there is no answer in time, or it is no.
    pub fn ask(&self, request: &impl Serialize) -> anyhow::Result<AdminResponse> {
        match self {
            Self::Socket(socket) => ask(socket, request),
            Self::Https { broker, client, token } => {
                let url = broker.url(HTTPS_PATH);
                let asked = client.post_json(Purpose::MANAGE, &url, Some(token.expose()), request);
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                understood(runtime.block_on(asked).map_err(explained)?)
            }
        }
    }
}

/// The first of the packaged roles' sockets that is there.
fn default_socket() -> PathBuf {
    let mut sockets = SOCKETS.iter().map(PathBuf::from);
    let there = sockets.find(|socket| socket.exists());
    there.unwrap_or_else(|| SOCKETS.iter().map(PathBuf::from).next().unwrap_or_default())
}

/// The same, of gateways only.
pub(super) fn default_gateway_socket() -> PathBuf {
    let mut gateways = SOCKETS.iter().filter(|socket| socket.contains("gateway"));
    let first = gateways.next().map(PathBuf::from).unwrap_or_default();
    let mut others = gateways.map(PathBuf::from);
    if first.exists() { first } else { others.find(|socket| socket.exists()).unwrap_or(first) }
}

fn token(file: Option<&Path>) -> anyhow::Result<Secret> {
    let Some(path) = file else {
        let text = std::env::var(TOKEN_VARIABLE)
            .with_context(|| format!("set {TOKEN_VARIABLE} or give --token-file"))?;
        return Ok(Secret::new(text.trim().to_owned()));
    };
    let name = path.display();
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {name}"))?;
    let mode = file.metadata()?.permissions().mode();
    anyhow::ensure!(mode & 0o077 == 0, "others may read or change {name}; run chmod 600 on it");
    let mut text = zeroize::Zeroizing::new(String::new());
    file.take(TOKEN_BYTES_MAX).read_to_string(&mut text).with_context(|| format!("in {name}"))?;
    anyhow::ensure!(!text.trim().is_empty(), "{name} is empty");
    Ok(Secret::new(text.trim().to_owned()))
}

/// A broker without admin tokens answers like one that knows no such address.
fn explained(error: DialError) -> anyhow::Error {
    let is_off = error.refusal().is_some_and(|refusal| refusal.code == Code::NotFound);
    let error = anyhow::Error::from(error);
    if is_off {
        error.context("the broker takes no admin tokens; declare one in [[broker.admin_tokens]]")
    } else {
        error
    }
}

/// Asks one question on a socket; see [`Reach::ask`].
///
/// # Errors
/// When the socket does not answer in time, or answers no.
pub fn ask(socket: &Path, request: &impl Serialize) -> anyhow::Result<AdminResponse> {
    let mut stream = UnixStream::connect(socket).with_context(|| {
        format!(
            "cannot reach {} (is the broker or gateway running, and are you its user or root? --socket names another)",
            socket.display()
        )
    })?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes())?;
    let mut line = zeroize::Zeroizing::new(String::new());
    BufReader::new(stream.take(LINE_LENGTH_MAX)).read_line(&mut line)?;
    understood(serde_json::from_str(&line).context("the answer is not understood")?)
}

fn understood(response: AdminResponse) -> anyhow::Result<AdminResponse> {
    match response {
        AdminResponse::Refused { refusal } => Err(refusal.into()),
        AdminResponse::Invalid { problem } => Err(anyhow::anyhow!(problem)),
        response => Ok(response),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "secret\n").unwrap();
        let with_mode = |mode| {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            token(Some(&file))
        };
        assert_eq!(with_mode(0o600).unwrap(), Secret::from("secret"));
        for open in [0o644, 0o640, 0o602] {
            assert!(with_mode(open).unwrap_err().to_string().contains("chmod 600"));
        }
        std::fs::write(&file, "\n").unwrap();
        assert!(with_mode(0o600).unwrap_err().to_string().contains("empty"));
    }

    #[test]
    fn there_is_one_way_to_ask() {
        let url: Endpoint = "https://broker.example".parse().unwrap();
        let remote = Remote { url: Some(url), ..Remote::default() };
        let socket = Path::new("/s");
        let both = Reach::new(Some(socket), &remote).unwrap_err();
        assert!(both.to_string().contains("not both"));
        let nowhere = Remote { ca: Some("ca.pem".into()), ..Remote::default() };
        assert!(Reach::new(Some(socket), &nowhere).unwrap_err().to_string().contains("--url"));
        let reach = Reach::new(Some(socket), &Remote::default()).unwrap();
        assert!(matches!(reach, Reach::Socket(path) if path == socket));
    }
}
