//! The JSON of `POST /api/arm/v2/connections` (step 7). Field names are those
//! that AVD-mode clients use; what we add is under `ringway`. And that of
//! `GET /api/gateways`, which only our connector asks.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::core::codes::Refusal;
use crate::core::ids::{GatewayId, HostId, SessionId};
use crate::core::secret::Secret;
use crate::core::selection::Explain;

/// Where a gateway is asked for a place. Some clients put a slash behind it.
pub const CONNECTIONS_PATH: &str = "/api/arm/v2/connections";

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
    /// Where at the chosen gateway: `https://host:port/relay/client` for our
    /// connector, `wss://host:port/wst/…` with the ticket in it for others.
    pub gateway_location: Secret,
    /// The same. FreeRDP from 3.18 on looks here first.
    #[serde(default)]
    pub gateway_location_pre_web_socket: Option<Secret>,
    /// What the client takes for the session host's name.
    pub redirected_server_name: String,
    /// [`target_certificate`], [`over_encoded`]. Empty when it is not known: FreeRDP
    /// from 3.17.2 on then checks authority and name as usual. Without the field
    /// it ends on an assertion, and a sequence without a certificate makes it
    /// give up.
    #[serde(default)]
    pub redirected_server_cert: String,
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

/// The one certificate that a client is to accept of the session host: one of a
/// sequence of elements, each `u32 type, u32 encoding, u32 length, data`
/// (MS-RDPBCGR 2.2.13.1, `TargetCertificate`).
#[must_use]
pub fn target_certificate(der: &[u8]) -> Vec<u8> {
    const CERTIFICATE: u32 = 32;
    const ASN1_DER: u32 = 1;
    let length = u32::try_from(der.len()).unwrap_or(u32::MAX);
    let header = [CERTIFICATE, ASN1_DER, length].map(u32::to_le_bytes);
    [header.concat().as_slice(), der].concat()
}

/// As AVD-mode clients have binary fields: base64 of UTF-16LE of base64.
#[must_use]
pub fn over_encoded(bytes: &[u8]) -> String {
    let units = STANDARD.encode(bytes);
    let units: Vec<u8> = units.encode_utf16().flat_map(u16::to_le_bytes).collect();
    STANDARD.encode(units)
}

/// `Code` that makes a stock client say that its machine is being started, and
/// ask again. Only with the status 400.
pub const STOCK_HOST_STARTING: &str = "E_PROXY_ORCHESTRATION_LB_SESSIONHOST_DEALLOCATED";

/// The body of every refusal over HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RefusalBody {
    /// Stable name, for programs; to a stock client perhaps one that it knows.
    pub code: String,
    pub number: u16,
    /// One sentence, for the person.
    pub message: String,
    pub step: u8,
    #[serde(flatten)]
    pub refusal: Refusal,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_one_element_over_encoded() {
        let blob = target_certificate(&[0x30, 0x82, 0xff]);
        assert_eq!(blob, [32, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0x30, 0x82, 0xff]);
        let inner = STANDARD.decode(over_encoded(&blob)).unwrap();
        let units = inner.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
        let text: String = char::decode_utf16(units).map(Result::unwrap).collect();
        assert_eq!(STANDARD.decode(text).unwrap(), blob);
        assert!(!over_encoded(&blob).contains(char::is_whitespace));
    }

    #[test]
    fn the_answer_has_the_names_that_stock_clients_look_for_and_hides_its_ticket() {
        let location = Secret::from("wss://gw/wst/desk?place=rw1.a.b.c");
        let response = ConnectionResponse {
            gateway_location: location.clone(),
            gateway_location_pre_web_socket: Some(location),
            redirected_server_name: "host-1".into(),
            redirected_server_cert: String::new(),
            ringway: RingwayDetails {
                session: SessionId([1; 16]),
                gateway: "gw-1".parse().unwrap(),
                host: "host-1".parse().unwrap(),
                ticket: "rw1.a.b.c".into(),
                explain: Explain::default(),
            },
        };
        assert!(!format!("{response:?}").contains("rw1"), "a ticket in a log");
        let json = serde_json::to_value(&response).unwrap();
        for name in [
            "gatewayLocation",
            "gatewayLocationPreWebSocket",
            "redirectedServerName",
            "redirectedServerCert",
        ] {
            assert!(json[name].is_string(), "{name} in {json}");
        }
    }
}
