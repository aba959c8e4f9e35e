//! `ringway rdp sign|verify`: signatures of `.rdp` files by hand.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::json;
use zeroize::Zeroizing;

use crate::core::clock::UnixMillis;
use crate::tls::identity::{SYSTEM_ROOTS_FILE, read_chain};
use crate::wire::rdp_file::{FILE_BYTES_MAX, RdpFile};
use crate::wire::rdp_signature::{self, SignatureError, Signer, Verified};

/// The check ran and found something wrong.
const EXIT_UNTRUSTED: u8 = 3;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Sign a file, so that clients can tell who made it
    Sign(SignArgs),
    /// Say who signed a file and which settings that does not cover
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
pub struct SignArgs {
    /// The .rdp file
    pub file: PathBuf,
    /// Certificate of the signer, then those of its issuers
    #[arg(long, value_name = "PEM")]
    pub cert: PathBuf,
    /// The signer's RSA key
    #[arg(long, value_name = "PEM")]
    pub key: PathBuf,
    /// Where to write the signed file [default: FILE itself]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The .rdp file
    pub file: PathBuf,
    /// Certificates to trust: of issuers, or of signers themselves
    #[arg(long, value_name = "PEM", default_value = SYSTEM_ROOTS_FILE)]
    pub ca: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Sign(args) => sign(&args),
        Command::Verify(args) => verify(&args),
    }
}

fn sign(args: &SignArgs) -> anyhow::Result<ExitCode> {
    let chain = std::fs::read_to_string(&args.cert)
        .with_context(|| format!("cannot read {}", args.cert.display()))?;
    let key = std::fs::read_to_string(&args.key)
        .map(Zeroizing::new)
        .with_context(|| format!("cannot read {}", args.key.display()))?;
    let signer = Signer::from_pem(&chain, &key)?;
    let signed = signer.sign(&read(&args.file)?)?;
    let out = args.out.as_ref().unwrap_or(&args.file);
    replace(out, &signed.to_bytes()).with_context(|| format!("cannot write {}", out.display()))?;
    println!("{}: signed as {}", out.display(), signer.subject());
    Ok(ExitCode::SUCCESS)
}

fn verify(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let file = read(&args.file)?;
    let roots = read_chain(&args.ca)?;
    let outcome = rdp_signature::verify(&file, &roots, UnixMillis::now());
    if args.json {
        println!("{}", as_json(&outcome));
    } else {
        print_for_people(&args.file, &outcome);
    }
    Ok(if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNTRUSTED) })
}

fn read(path: &Path) -> anyhow::Result<RdpFile> {
    use std::io::Read as _;
    let context = || format!("cannot read {}", path.display());
    let limit = u64::try_from(FILE_BYTES_MAX)?.saturating_add(1);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).with_context(context)?;
    file.take(limit).read_to_end(&mut bytes).with_context(context)?;
    RdpFile::parse(&bytes).with_context(context)
}

/// Never leaves half a file behind: writes beside it, then renames.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    std::fs::write(&beside, bytes)?;
    std::fs::rename(&beside, path)
}

fn as_json(outcome: &Result<Verified, SignatureError>) -> serde_json::Value {
    match outcome {
        Ok(verified) => {
            let outside: Vec<_> = verified
                .outside_scope
                .iter()
                .map(|s| json!({ "name": s.name(), "value": s.printable_value() }))
                .collect();
            json!({
                "valid": true,
                "signer": verified.signer_subject,
                "not_after": utc(verified.not_after),
                "not_after_unix_ms": verified.not_after.0,
                "scope": verified.scope,
                "outside_scope": outside,
            })
        }
        Err(error) => json!({ "valid": false, "error": kind(error), "detail": error.to_string() }),
    }
}

fn print_for_people(path: &Path, outcome: &Result<Verified, SignatureError>) {
    let verified = match outcome {
        Ok(verified) => verified,
        Err(error) => {
            eprintln!("{}: do not trust this file: {error}", path.display());
            return;
        }
    };
    println!("{}: signature is right", path.display());
    println!("signer   {}", verified.signer_subject);
    println!("expires  {}", utc(verified.not_after));
    println!("covers   {}", verified.scope.join(", "));
    if verified.outside_scope.is_empty() {
        println!("Every setting is signed.");
    } else {
        println!("Not signed, anyone could have written these:");
        for setting in &verified.outside_scope {
            println!("  {}: {}", setting.name(), setting.printable_value());
        }
    }
}

/// Stable names for scripts.
const fn kind(error: &SignatureError) -> &'static str {
    match error {
        SignatureError::Missing => "missing",
        SignatureError::Malformed(_) => "malformed",
        SignatureError::Scope(_) => "scope",
        SignatureError::Wrong => "wrong",
        SignatureError::Expired => "expired",
        SignatureError::NotYetValid => "not_yet_valid",
        SignatureError::Untrusted { .. } => "untrusted",
    }
}

/// `2026-11-25T01:13:53Z`.
pub(crate) fn utc(time: UnixMillis) -> String {
    let since_epoch = std::time::Duration::from_secs(time.0 / 1000);
    der::DateTime::from_unix_duration(since_epoch)
        .map_or_else(|_| format!("{} ms after 1970", time.0), |time| time.to_string())
}
