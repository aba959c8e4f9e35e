//! Why a relayed session ended: exactly one of these, for every session.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! close_reasons {
    ($($variant:ident $name:literal $doc:literal;)+) => {
        /// The closed list. Each is counted (`sessions_closed_total{reason=…}`)
        /// and explained in `README.md` ("Close reasons"); a test compares.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum CloseReason {
            $(#[doc = $doc] #[serde(rename = $name)] $variant,)+
        }

        impl CloseReason {
            /// All reasons with name and meaning.
            pub const ALL: &'static [(Self, &'static str, &'static str)] =
                &[$((Self::$variant, $name, $doc),)+];

            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

close_reasons! {
    ClientClosed "client_closed" "The client ended its stream with close_notify, and everything was delivered.";
    HostClosed "host_closed" "The session host ended its stream with close_notify, and everything was delivered.";
    ClientTruncated "client_truncated" "The client's TCP stream ended without close_notify.";
    HostTruncated "host_truncated" "The session host's TCP stream ended without close_notify.";
    ClientReset "client_reset" "The client's connection failed (reset, unreachable, timed out).";
    HostReset "host_reset" "The session host's connection failed (reset, unreachable, timed out).";
    ClientTlsError "client_tls_error" "The client broke the TLS protocol: bad record, bad MAC, forbidden message, fatal alert.";
    HostTlsError "host_tls_error" "The session host broke the TLS protocol: bad record, bad MAC, forbidden message, fatal alert.";
    ClientFramingError "client_framing_error" "The client broke the protocol in which its bytes travel: WebSocket, HTTP chunks, or RD Gateway packets.";
    HalfCloseTimeout "half_close_timeout" "One side had closed, and the other sent nothing for the time that is allowed then.";
    IdleTimeout "idle_timeout" "No byte either way for the idle time (off unless configured).";
    LifetimeReached "lifetime_reached" "The session reached its longest allowed lifetime (off unless configured).";
    NotReauthenticated "not_reauthenticated" "The client was asked to authenticate again, and did not in time (off unless configured).";
    Disconnected "disconnected" "An administrator, or the broker, ended the session.";
    GatewayShutdown "gateway_shutdown" "The gateway stopped and the grace period was over.";
    GatewayFault "gateway_fault" "Our fault: the log has the details.";
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
