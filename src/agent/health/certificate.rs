//! The RDP server's certificate: whether there is one that clients can use. It
//! is looked at, not trusted: nothing is said over the connection after it.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use crate::core::clock::UnixMillis;
use crate::tls::identity::read_chain;
use crate::tls::settings::TlsSettings;
use crate::wire::x224::{
    CONFIRM_BYTES_MAX, ConnectionConfirm, ConnectionRequest, FailureCode, Negotiation, Protocols,
};

/// What an RDP server shows.
#[derive(Debug)]
pub(super) struct Server {
    /// The leaf, in DER.
    pub certificate: Vec<u8>,
    /// Of what was offered.
    pub chose: Protocols,
}

/// The leaf in a PEM file.
pub(super) fn in_file(path: &Path) -> Result<Option<Server>, String> {
    let chain = read_chain(path).map_err(|error| error.to_string())?;
    let leaf = chain.first().ok_or("the file is empty")?;
    Ok(Some(Server { certificate: leaf.to_vec(), chose: Protocols::SSL }))
}

/// Asks an RDP server: X.224 negotiation with this offer, then TLS; `None` if
/// it speaks none.
pub(super) async fn of_server<S>(mut stream: S, offer: Protocols) -> Result<Option<Server>, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some(chose) = negotiate_tls(&mut stream, offer).await? else { return Ok(None) };
    let config = looking_config().map_err(|error| format!("cannot set up TLS: {error}"))?;
    // Whatever it is called: the name is not checked.
    let name = ServerName::try_from("rdp-server.invalid").map_err(|error| error.to_string())?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let tls = connecting.await.map_err(|error| format!("TLS: {error}"))?;
    let chain = tls.get_ref().1.peer_certificates();
    let leaf = chain.and_then(<[_]>::first).ok_or("the RDP server shows no certificate")?;
    Ok(Some(Server { certificate: leaf.to_vec(), chose }))
}

/// With what the server goes on that begins with TLS, if anything
/// (MS-RDPBCGR 2.2.1.1, 2.2.1.2).
async fn negotiate_tls<S>(stream: &mut S, offered: Protocols) -> Result<Option<Protocols>, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let offer = Negotiation { flags: 0, protocols: offered, correlation: None };
    let request = ConnectionRequest { routing_token: None, cookie: None, negotiation: Some(offer) };
    let silent = |error: std::io::Error| format!("no answer to the RDP negotiation: {error}");
    stream.write_all(&request.for_server()).await.map_err(silent)?;
    let mut answer = Vec::with_capacity(CONFIRM_BYTES_MAX);
    let confirm = loop {
        match ConnectionConfirm::parse(&answer) {
            Ok(Some((confirm, _))) => break confirm,
            Ok(None) if stream.read_buf(&mut answer).await.map_err(silent)? > 0 => {}
            Ok(None) => return Err(silent(ErrorKind::UnexpectedEof.into())),
            Err(error) => return Err(format!("the answer is not RDP: {error}")),
        }
    };
    match confirm {
        ConnectionConfirm::Selected { protocol, .. } => {
            Ok((protocol & offered != Protocols::RDP).then_some(protocol))
        }
        ConnectionConfirm::Plain | ConnectionConfirm::Refused(FailureCode::SSL_NOT_ALLOWED) => {
            Ok(None)
        }
        ConnectionConfirm::Refused(FailureCode(code)) => {
            Err(format!("the RDP server refuses the negotiation ({code})"))
        }
    }
}

/// What is wrong with a certificate, or whose it is and how long.
pub(super) fn judge(der: &[u8], now: UnixMillis) -> Result<String, String> {
    let certificate = Certificate::from_der(der).map_err(|error| format!("unreadable: {error}"))?;
    let certificate = certificate.tbs_certificate;
    let until = certificate.validity.not_after;
    let detail = format!("{}, until {until}", certificate.subject);
    let until_ms = u64::try_from(until.to_unix_duration().as_millis()).unwrap_or(u64::MAX);
    if UnixMillis(until_ms) < now { Err(format!("expired: {detail}")) } else { Ok(detail) }
}

fn looking_config() -> Result<ClientConfig, Error> {
    let provider = TlsSettings { chacha20: true, ..TlsSettings::default() }.provider();
    Ok(ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OnlyLooks(provider)))
        .with_no_client_auth())
}

/// Accepts any certificate: the connection ends when it is seen.
#[derive(Debug)]
struct OnlyLooks(Arc<CryptoProvider>);

impl ServerCertVerifier for OnlyLooks {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
