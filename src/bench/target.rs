//! What is loaded: a deployment of our own, or any relay that dials back.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::deployment::{Deployment, DeploymentSettings, Marks};
use super::engine::{Engine, EngineSettings, Route};
use super::framing::ClientLeg;
use super::options::{Address, Cipher, Common, Direction};
use super::sample::Sample;
use super::verifier::{TrustsAnyone, VerifiesOnce};
use crate::tls::settings::{MinimumVersion, TlsSettings};

/// An address, and the name that its certificate has.
pub type Door = (SocketAddr, ServerName<'static>);

/// What is loaded.
#[derive(Debug)]
pub enum Target {
    Ours(Box<Deployment>),
    Through { relay: Address, sink: Address },
}

impl Target {
    /// Starts what has to be started.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(common: &Common, sessions_max: u32, marks: Marks) -> anyhow::Result<Self> {
        match (common.through, common.sink) {
            (Some(relay), Some(sink)) => Ok(Self::Through { relay, sink }),
            _ => Ok(Self::Ours(Box::new(Deployment::start(&DeploymentSettings {
                sessions_max,
                marks,
                gateway_core: common.gateway_core,
                thread_settings: common.gateway_thread_settings.clone(),
                tls: tls(common),
            })?))),
        }
    }

    /// The engine that loads it.
    ///
    /// # Errors
    /// When the sink's port is taken, or the broker does not answer.
    pub fn engine(
        &self,
        common: &Common,
        leg: ClientLeg,
        bulk: Direction,
    ) -> anyhow::Result<Engine> {
        let route = match self {
            Self::Ours(deployment) => deployment.route(leg)?,
            Self::Through { relay, sink } => {
                let sink_tls =
                    if sink.is_tls { Some(Arc::new(sink_config(common)?)) } else { None };
                Route::Through { relay: relay.at, sink: sink.at, sink_tls }
            }
        };
        let (tls, shake_at) = self.door(common)?;
        let bulk = (bulk != Direction::Down, bulk != Direction::Up);
        Engine::new(EngineSettings {
            route,
            tls,
            shake_at: Some(shake_at),
            seed: common.seed,
            bulk,
        })
    }

    /// Where clients dial, under which name, and with which TLS if with any.
    ///
    /// # Errors
    /// When there is no such name, or TLS does not take the settings.
    pub fn door(&self, common: &Common) -> anyhow::Result<(Option<Arc<ClientConfig>>, Door)> {
        let (verifier, door): (Option<Arc<dyn ServerCertVerifier>>, Door) = match self {
            Self::Ours(deployment) => {
                let name = deployment.url().server_name();
                let name = name.map_err(|_| anyhow::anyhow!("the gateway has no name"))?;
                let verifier = WebPkiServerVerifier::builder_with_provider(
                    Arc::new(deployment.roots().clone()),
                    tls(common).provider(),
                );
                (Some(verifier.build()?), (deployment.address(), name))
            }
            Self::Through { relay, .. } => {
                let anyone = || Arc::new(TrustsAnyone(tls(common).provider())) as Arc<_>;
                (relay.is_tls.then(anyone), (relay.at, ServerName::from(relay.at.ip())))
            }
        };
        let tls = verifier.map(|verifier| -> anyhow::Result<Arc<ClientConfig>> {
            let mut config = tls(common).client(RootCertStore::empty())?;
            let verifier = Arc::new(VerifiesOnce::new(verifier));
            config.dangerous().set_certificate_verifier(verifier);
            // The keys are taken after the handshake, as a gateway does.
            config.enable_secret_extraction = true;
            // Every handshake is a full one.
            config.resumption = rustls::client::Resumption::disabled();
            Ok(Arc::new(config))
        });
        let tls = tls.transpose()?;
        Ok((tls, door))
    }

    /// What our own processes said last.
    #[must_use]
    pub fn log(&self) -> String {
        match self {
            Self::Ours(deployment) => deployment.log(),
            Self::Through { .. } => String::new(),
        }
    }

    /// Where our broker takes orders.
    #[must_use]
    pub fn broker_socket(&self) -> Option<PathBuf> {
        match self {
            Self::Ours(deployment) => Some(deployment.broker_socket()),
            Self::Through { .. } => None,
        }
    }

    /// Output slots that our gateway's relay has in use.
    #[must_use]
    pub fn slots_used(&self) -> Option<u64> {
        match self {
            Self::Ours(deployment) => deployment.slots_used(),
            Self::Through { .. } => None,
        }
    }

    /// What its processes use; none when there are none that we know.
    #[must_use]
    pub fn sample(&self, common: &Common) -> Option<Sample> {
        let pids = self.processes(common);
        (!pids.is_empty()).then(|| Sample::of(&pids))
    }

    /// How long they were on a core.
    #[must_use]
    pub fn cpu_ns(&self, common: &Common) -> u64 {
        Sample::cpu_ns_of(&self.processes(common))
    }

    fn processes(&self, common: &Common) -> Vec<u32> {
        let mut pids = common.pids.clone();
        if let Self::Ours(deployment) = self {
            pids.push(deployment.gateway_pid());
        }
        pids
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ours(_) => f.write_str("ringway"),
            Self::Through { relay, .. } => relay.fmt(f),
        }
    }
}

fn tls(common: &Common) -> TlsSettings {
    TlsSettings {
        minimum_version: MinimumVersion::Tls13,
        prefer_aes128: common.cipher == Cipher::Aes128,
        ..TlsSettings::default()
    }
}

/// A certificate for this run alone.
fn sink_config(common: &Common) -> anyhow::Result<ServerConfig> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .map_err(|error| anyhow::anyhow!("the sink's key: {error}"))?;
    tls(common).server(vec![made.cert.der().clone()], key).context("the sink's certificate")
}
