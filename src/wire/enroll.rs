//! `POST /enroll` on a broker: a short-lived token for a certificate.

use serde::{Deserialize, Serialize};

use crate::core::ids::PoolId;
use crate::core::secret::Secret;

/// What a machine is to the broker. Part of its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum MachineRole {
    Agent,
    Gateway,
}

impl MachineRole {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Gateway => "gateway",
        }
    }
}

/// The request. The key never leaves the machine: only the signing request
/// travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    pub token: Secret,
    pub role: MachineRole,
    /// The name that the machine would like: a `HostId` or a `GatewayId`.
    pub name: String,
    /// PKCS#10 in PEM. Only its public key is used.
    pub csr_pem: String,
    /// DNS names under which a gateway is reached, so that the same
    /// certificate can serve its TLS port. Empty for agents.
    #[serde(default)]
    pub server_names: Vec<String>,
}

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnrolResponse {
    pub name: String,
    /// The pool of a session host.
    pub pool: Option<PoolId>,
    /// Certificate of the machine, then the CA's.
    pub certificate_pem: String,
    pub ca_pem: String,
}
