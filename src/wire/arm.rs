//! The JSON of `POST /api/arm/v2/connections` (step 7). Field names are those
//! that AVD-mode clients use; what we add is under `ringway`. And that of
//! `GET /api/gateways`, which only our connector asks.

use serde::{Deserialize, Serialize};

use crate::core::codes::Refusal;
use crate::core::ids::{GatewayId, HostId, SessionId};
use crate::core::secret::Secret;
use crate::core::selection::Explain;

/// The request. Unknown fields are ignored: stock clients send more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionRequest {
    /// `remoteapplicationprogram` of the .rdp file.
    #[serde(default)]
    pub application: String,
    /// `loadbalanceinfo` of the .rdp file.
    #[serde(default)]
    pub load_balance_info: String,
    /// What the client measured itself. Stock clients do not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ringway_rtt_samples: Vec<RttSample>,
    /// Gateways that it tried in vain. A list of its own: to an older gateway
    /// a sample without a round trip would be a very short one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ringway_unreachable: Vec<GatewayId>,
}

/// A gateway looks at no more samples of one client.
pub const SAMPLES_MAX: usize = 256;

/// One round trip that a client measured to one gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RttSample {
    pub gateway: GatewayId,
    pub rtt_us: u64,
    /// How long before this request.
    #[serde(default)]
    pub age_ms: u64,
}

/// Where a gateway lists those that a client may measure its way to.
pub const GATEWAYS_PATH: &str = "/api/gateways";
/// It lists no more: each costs a client and the gateway a TLS handshake.
pub const LISTED_MAX: usize = 32;

/// The answer to `GET /api/gateways`, best first as it looks from the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayList {
    pub gateways: Vec<ListedGateway>,
}

/// A gateway and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedGateway {
    pub gateway: GatewayId,
    /// `https://host:port`
    pub url: String,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionResponse {
    /// `https://host:port/relay/client` of the chosen gateway.
    pub gateway_location: String,
    pub redirected_server_name: String,
    pub ringway: RingwayDetails,
}

/// What our connector needs beyond what stock clients know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RingwayDetails {
    pub session: SessionId,
    pub gateway: GatewayId,
    pub host: HostId,
    /// Goes into the `Ringway-Ticket` header of the relay request.
    pub ticket: Secret,
    pub explain: Explain,
}

/// The body of every refusal over HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RefusalBody {
    /// Stable name, for programs.
    pub code: String,
    pub number: u16,
    /// One sentence, for the person.
    pub message: String,
    pub step: u8,
    #[serde(flatten)]
    pub refusal: Refusal,
}
