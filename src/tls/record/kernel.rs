//! What rustls keeps after the keys are taken: it derives the next traffic
//! secret of a direction for a `KeyUpdate` (RFC 8446 7.2).

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ProtocolVersion, SupportedCipherSuite};

use super::protection::{Protection, SEQUENCE_LIMIT};
use super::{RecordError, Role};

/// The rest of a rustls connection, of either side. Not larger than a few
/// pointers: rustls boxes its state.
pub enum Kernel {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Kernel {
    pub(super) const fn role(&self) -> Role {
        match self {
            Self::Client(_) => Role::Client,
            Self::Server(_) => Role::Server,
        }
    }

    pub(super) fn version(&self) -> ProtocolVersion {
        match self {
            Self::Client(kernel) => kernel.protocol_version(),
            Self::Server(kernel) => kernel.protocol_version(),
        }
    }

    pub(super) fn suite(&self) -> SupportedCipherSuite {
        match self {
            Self::Client(kernel) => kernel.negotiated_cipher_suite(),
            Self::Server(kernel) => kernel.negotiated_cipher_suite(),
        }
    }

    /// Records that one key may seal: 2^24 for AES-GCM (RFC 8446 5.5).
    pub(super) fn seal_limit(&self) -> u64 {
        let limit = match self.suite() {
            SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
            SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
        };
        limit.min(SEQUENCE_LIMIT)
    }

    /// The next keys for what is received.
    pub(super) fn next_rx(&mut self) -> Result<Protection, RecordError> {
        let version = self.version();
        let next = match self {
            Self::Client(kernel) => kernel.update_rx_secret(),
            Self::Server(kernel) => kernel.update_rx_secret(),
        };
        Protection::new(version, next.map_err(|_| RecordError::Keys)?)
    }

    /// The next keys for what is sent.
    pub(super) fn next_tx(&mut self) -> Result<Protection, RecordError> {
        let version = self.version();
        let next = match self {
            Self::Client(kernel) => kernel.update_tx_secret(),
            Self::Server(kernel) => kernel.update_tx_secret(),
        };
        Protection::new(version, next.map_err(|_| RecordError::Keys)?)
    }
}
