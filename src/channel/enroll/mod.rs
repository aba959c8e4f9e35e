//! `ringway enroll`: exchanges a short-lived token for a certificate. The key
//! is made here and never leaves the machine.

mod enrolment;
mod token;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use crate::config::state_dir::{StateDir, StateError};
use crate::core::clock::UnixMillis;
use crate::core::ids::{HostId, NAME_LENGTH_MAX};
use crate::core::secret::Secret;
use crate::dial::http::HttpsClient;
use crate::dial::{DialError, DialLimits, Endpoint, Purpose};
use crate::tls::identity::{self, PemError};
use crate::tls::pinned_ca::CaPin;
use crate::tls::settings::TlsSettings;
use crate::wire::enroll::{EnrolRequest, EnrolResponse, MachineRole};

pub use enrolment::{Enrolment, EnrolmentError, Record};
pub use token::{EnrolToken, EnrolTokenError};

pub use enrolment::{CA_FILE, CERTIFICATE_FILE, KEY_FILE, RECORD_FILE};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of the broker, e.g. https://broker.example:8443
    #[arg(long, value_name = "URL")]
    broker: Endpoint,
    /// What `ringway token create` printed on the broker
    #[arg(long, env = "RINGWAY_ENROL_TOKEN", hide_env_values = true)]
    token: Secret,
    /// What this machine is
    #[arg(long)]
    role: MachineRole,
    /// Where key and certificate are kept; the role's `state_dir`
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
    /// Name of this machine [default: its host name]
    #[arg(long)]
    name: Option<String>,
    /// DNS name under which clients reach this gateway; may be repeated
    /// [default: those that the token was created for]
    #[arg(long, value_name = "DNS")]
    server_name: Vec<String>,
    /// Trust this CA for the broker's certificate instead of the token's
    #[arg(long, value_name = "PEM")]
    ca: Option<PathBuf>,
    /// Replace an enrolment that is still valid
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let name = match args.name {
        Some(name) => name,
        None => own_name()?,
    };
    let settings = EnrolSettings {
        broker: args.broker,
        token: args.token.expose().parse()?,
        role: args.role,
        state_dir: args.state_dir,
        name,
        server_names: args.server_name,
        ca: args.ca,
        force: args.force,
        limits: DialLimits::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let enrolment = runtime.block_on(enroll(&settings)).context("not enrolled")?;
    let Record { name, role, pool, .. } = &enrolment.record;
    if args.json {
        let mut json = serde_json::to_value(&enrolment.record)?;
        if let Some(object) = json.as_object_mut() {
            object.insert("state_dir".into(), settings.state_dir.display().to_string().into());
            object.insert("expires_at".into(), enrolment.expires_at.0.into());
        }
        println!("{json}");
    } else {
        println!("Enrolled as {} {name}", role.as_str());
        if let Some(pool) = pool {
            println!("Pool         {pool}");
        }
        println!("Stored in    {}", settings.state_dir.display());
        println!("Next         ringway {} --config FILE", role.as_str());
        println!(
            "             with state_dir = {:?} in its [{}] table",
            settings.state_dir.display().to_string(),
            role.as_str()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// One enrolment.
#[derive(Clone, Debug)]
pub struct EnrolSettings {
    pub broker: Endpoint,
    pub token: EnrolToken,
    pub role: MachineRole,
    pub state_dir: PathBuf,
    pub name: String,
    pub server_names: Vec<String>,
    /// Trust this PEM file instead of the CA that the token pins.
    pub ca: Option<PathBuf>,
    pub force: bool,
    pub limits: DialLimits,
}

/// Why there is no enrolment.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error("{0} holds a valid enrolment already; add --force to replace it")]
    Exists(PathBuf),
    #[error("the name {name:?} cannot be used: {error}; choose one with --name")]
    Name { name: String, error: crate::core::ids::IdError },
    #[error("cannot make a key or signing request: {0}")]
    Key(#[from] rcgen::Error),
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot set up HTTPS: {0}")]
    Http(#[from] reqwest::Error),
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the broker's answer cannot be used: {0}")]
    Answer(&'static str),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("cannot remove {path}: {error}")]
    Remove { path: PathBuf, error: std::io::Error },
    #[error("what was stored cannot be read back: {0}")]
    Stored(#[from] EnrolmentError),
}

/// Makes a key, has it certified, and stores both.
///
/// # Errors
/// The broker's refusal, or what failed here. A valid enrolment that was there
/// before is only touched after the broker has said yes.
pub async fn enroll(settings: &EnrolSettings) -> Result<Enrolment, EnrolError> {
    let EnrolSettings { name, state_dir, token, .. } = settings;
    // Hosts and gateways are named by the same rule.
    name.parse::<HostId>().map_err(|error| EnrolError::Name { name: name.clone(), error })?;
    let existing = Enrolment::load(state_dir);
    if existing.is_ok_and(|e| !e.is_expired(UnixMillis::now())) && !settings.force {
        return Err(EnrolError::Exists(state_dir.clone()));
    }

    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let request = EnrolRequest {
        token: token.text().clone(),
        role: settings.role,
        name: name.clone(),
        csr_pem: signing_request(&key, name, &settings.server_names)?,
        server_names: settings.server_names.clone(),
    };
    let tls = match &settings.ca {
        Some(path) => TlsSettings::default().client(identity::read_roots(Some(path))?)?,
        None => token.ca_pin.client(TlsSettings::default())?,
    };
    let url = settings.broker.url("/enroll");
    let answer: EnrolResponse = HttpsClient::new(tls, settings.limits)?
        .post_json(Purpose::MANAGE, &url, None, &request)
        .await?;
    check(&answer, settings)?;
    store(&answer, &key, settings)?;
    Ok(Enrolment::load_as(state_dir, settings.role)?)
}

fn signing_request(
    key: &KeyPair,
    name: &str,
    server_names: &[String],
) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::new(server_names)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.serialize_request(key)?.pem()
}

/// The CA that we are given is the one that the token promised: a broker whose
/// own certificate comes from elsewhere (`--ca`) is held to it as well.
fn check(answer: &EnrolResponse, settings: &EnrolSettings) -> Result<(), EnrolError> {
    let ca = CertificateDer::from_pem_slice(answer.ca_pem.as_bytes())
        .map_err(|_| EnrolError::Answer("its CA is not a certificate in PEM"))?;
    if CaPin::of(&ca) != settings.token.ca_pin {
        return Err(EnrolError::Answer("its CA is not the one that the token names"));
    }
    answer
        .name
        .parse::<HostId>()
        .map_err(|_| EnrolError::Answer("the name that it gives this machine is not one"))?;
    Ok(())
}

fn store(
    answer: &EnrolResponse,
    key: &KeyPair,
    settings: &EnrolSettings,
) -> Result<(), EnrolError> {
    let record = Record {
        broker_url: settings.broker.to_string(),
        name: answer.name.clone(),
        role: settings.role,
        pool: answer.pool.clone(),
    };
    let record = serde_json::to_vec_pretty(&record).map_err(|_| EnrolError::Answer("no record"))?;
    let key_pem = Zeroizing::new(key.serialize_pem());

    let dir = StateDir::open(&settings.state_dir)?;
    dir.make_private()?;
    let record_path = dir.file(RECORD_FILE);
    match std::fs::remove_file(&record_path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(EnrolError::Remove { path: record_path, error });
        }
        _ => {}
    }
    for (name, content) in [
        (KEY_FILE, key_pem.as_bytes()),
        (CERTIFICATE_FILE, answer.certificate_pem.as_bytes()),
        (CA_FILE, answer.ca_pem.as_bytes()),
        (RECORD_FILE, record.as_slice()),
    ] {
        dir.write_for_owner(name, content)?;
    }
    Ok(())
}

/// The host name, made into a name.
fn own_name() -> anyhow::Result<String> {
    let uname = rustix::system::uname();
    let cleaned = cleaned_name(&uname.nodename().to_string_lossy());
    anyhow::ensure!(!cleaned.is_empty(), "this machine has no host name; choose one with --name");
    Ok(cleaned)
}

fn cleaned_name(hostname: &str) -> String {
    hostname
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c) { c } else { '-' }
        })
        .take(NAME_LENGTH_MAX)
        .collect()
}

#[cfg(test)]
mod tests;
