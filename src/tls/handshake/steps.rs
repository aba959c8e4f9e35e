//! The two unbuffered connections of rustls, one step at a time.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, InsufficientSizeError, UnbufferedStatus};
use rustls::{CommonState, ExtractedSecrets};

use super::TlsError;
use crate::tls::record::Kernel;

/// What rustls wants next.
pub(super) enum Step {
    Again,
    Blocked,
    Done,
}

/// What the two unbuffered connections of rustls have in common, which rustls
/// itself does not express.
pub(super) trait Unbuffered {
    /// One step: bytes to discard from the front of `incoming`, and what next.
    fn step(
        &mut self,
        incoming: &mut [u8],
        outgoing: &mut Vec<u8>,
    ) -> (usize, Result<Step, TlsError>);
    fn common(&self) -> &CommonState;
    fn into_kernel(self) -> Result<(ExtractedSecrets, Kernel), rustls::Error>;
}

impl Unbuffered for UnbufferedServerConnection {
    fn step(
        &mut self,
        incoming: &mut [u8],
        outgoing: &mut Vec<u8>,
    ) -> (usize, Result<Step, TlsError>) {
        let status: UnbufferedStatus<'_, '_, ServerConnectionData> =
            self.process_tls_records(incoming);
        let (discard, step) = take_step(status, outgoing);
        (discard, settle(step, self.is_handshaking()))
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_kernel(self) -> Result<(ExtractedSecrets, Kernel), rustls::Error> {
        let (secrets, kernel) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Kernel::Server(kernel)))
    }
}

impl Unbuffered for UnbufferedClientConnection {
    fn step(
        &mut self,
        incoming: &mut [u8],
        outgoing: &mut Vec<u8>,
    ) -> (usize, Result<Step, TlsError>) {
        let status: UnbufferedStatus<'_, '_, ClientConnectionData> =
            self.process_tls_records(incoming);
        let (discard, step) = take_step(status, outgoing);
        (discard, settle(step, self.is_handshaking()))
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_kernel(self) -> Result<(ExtractedSecrets, Kernel), rustls::Error> {
        let (secrets, kernel) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Kernel::Client(kernel)))
    }
}

fn take_step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    outgoing: &mut Vec<u8>,
) -> (usize, Result<Step, TlsError>) {
    let UnbufferedStatus { discard, state } = status;
    let step = match state {
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let start = outgoing.len();
            let needed = match data.encode(&mut []) {
                Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
                    required_size
                }
                _ => 0,
            };
            outgoing.resize(start + needed, 0);
            match data.encode(outgoing.get_mut(start..).unwrap_or_default()) {
                Ok(_) => Ok(Step::Again),
                Err(_) => Err(TlsError::Unforeseen),
            }
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Blocked),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Done),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
            Err(TlsError::ClosedInHandshake)
        }
        // No early data is offered, and rustls is shown no record after the
        // handshake.
        Ok(_) => Err(TlsError::Unforeseen),
        Err(error) => Err(TlsError::Handshake(error)),
    };
    (discard, step)
}

/// A server may write half a round trip before it has heard the client's last
/// word (RFC 8446 4.4.4); for us that is not done yet.
fn settle(step: Result<Step, TlsError>, still_shaking: bool) -> Result<Step, TlsError> {
    match step {
        Ok(Step::Done) if still_shaking => Ok(Step::Blocked),
        step => step,
    }
}
