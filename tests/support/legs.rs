//! A user's client and a session host, reduced to what a gateway sees of them:
//! TLS, a request, and then raw bytes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringway::core::codes::{Code, Refusal};
use ringway::core::tickets::Role;
use ringway::wire::arm::RefusalBody;
use ringway::wire::relay_answer;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::wait::within;

/// TLS to a gateway.
pub async fn dial(address: SocketAddr, tls: &Arc<ClientConfig>) -> Leg {
    let tcp = within("TCP connection", TcpStream::connect(address)).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let name = ServerName::from(address.ip());
    let stream = TlsConnector::from(Arc::clone(tls)).connect(name, tcp);
    Leg(within("TLS handshake", stream).await.unwrap())
}

/// TLS to a gateway from a peer that takes little before it has to read: a few
/// KiB of its own, and small segments so that the gateway's kernel keeps little.
pub async fn dial_with_little_room(address: SocketAddr, tls: &Arc<ClientConfig>) -> Leg {
    let socket = TcpSocket::new_v4().unwrap();
    SockRef::from(&socket).set_recv_buffer_size(4 * 1024).unwrap();
    SockRef::from(&socket).set_tcp_mss(536).unwrap();
    let tcp = within("TCP connection", socket.connect(address)).await.unwrap();
    let name = ServerName::from(address.ip());
    let stream = TlsConnector::from(Arc::clone(tls)).connect(name, tcp);
    Leg(within("TLS handshake", stream).await.unwrap())
}

/// The request of a leg.
pub fn request(role: Role, ticket: &str) -> String {
    format!(
        "GET /relay/{} HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: {}\r\n\
         Ringway-Ticket: {ticket}\r\n\r\n",
        role.as_str(),
        relay_answer::PROTOCOL
    )
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    /// The refusal in the body, which must agree with itself.
    pub fn refusal(&self) -> Refusal {
        let body: RefusalBody = serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {self:?}"));
        let facts = body.refusal.code.facts();
        assert_eq!(
            (body.code.as_str(), body.number, body.step, self.status),
            (facts.name, facts.number, facts.step, facts.http_status)
        );
        assert!(body.message.contains(facts.advice), "{}", body.message);
        body.refusal
    }

    pub fn code(&self) -> Code {
        self.refusal().code
    }
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// `close_notify`.
    Clean,
    /// FIN without `close_notify`.
    Truncated,
    Reset,
    Alert(AlertDescription),
    Other(String),
}

/// One TLS connection to a gateway, from its handshake on.
#[derive(Debug)]
pub struct Leg(pub TlsStream<TcpStream>);

impl Leg {
    pub async fn send(&mut self, bytes: &[u8]) {
        within("sending", async {
            self.0.write_all(bytes).await.unwrap();
            self.0.flush().await.unwrap();
        })
        .await;
    }

    /// Bytes past TLS, as they go over the wire.
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        self.0.get_mut().0.write_all(bytes).await.unwrap();
    }

    pub async fn receive(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        within("receiving", self.0.read_exact(&mut bytes)).await.unwrap();
        bytes
    }

    pub async fn reply(&mut self) -> Reply {
        within("an answer", read_reply(&mut self.0)).await.unwrap()
    }

    /// Sends a request and reads its answer.
    pub async fn ask(&mut self, request: &str) -> Reply {
        self.send(request.as_bytes()).await;
        self.reply().await
    }

    /// `close_notify` and FIN; receiving goes on.
    pub async fn close(&mut self) {
        self.0.shutdown().await.unwrap();
    }

    /// FIN alone.
    pub async fn cut(&mut self) {
        self.0.get_mut().0.shutdown().await.unwrap();
    }

    /// RST.
    pub fn reset(self) {
        SockRef::from(self.0.get_ref().0).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Reads to the end, whatever it is like.
    pub async fn read_to_end(&mut self) -> (Vec<u8>, End) {
        let mut bytes = Vec::new();
        let end = within("the end of the stream", self.0.read_to_end(&mut bytes)).await;
        (bytes, how(end))
    }

    /// The end, and nothing before it.
    pub async fn end(&mut self) -> End {
        let (bytes, end) = self.read_to_end().await;
        assert_eq!(bytes.len(), 0, "unexpected: {:?}", String::from_utf8_lossy(&bytes));
        end
    }
}

/// Asks for the relay. Refused, or let in: then the other leg is there.
pub async fn knock(
    address: SocketAddr,
    tls: &Arc<ClientConfig>,
    role: Role,
    ticket: &str,
) -> Result<Leg, Refusal> {
    let mut leg = dial(address, tls).await;
    let reply = leg.ask(&request(role, ticket)).await;
    if reply.status == 101 { Ok(leg) } else { Err(reply.refusal()) }
}

/// Sorts the end of a stream.
pub fn how(end: io::Result<usize>) -> End {
    let Err(error) = end else { return End::Clean };
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match (tls, error.kind()) {
        (Some(rustls::Error::AlertReceived(alert)), _) => End::Alert(*alert),
        (_, io::ErrorKind::UnexpectedEof) => End::Truncated,
        (_, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => End::Reset,
        _ => End::Other(error.to_string()),
    }
}

/// Reads one answer and not a byte more.
pub async fn read_reply(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Reply> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.trim().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Reply { status, head, body })
}
