//! What an agent connects sessions to, in the place of an RDP server.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringway::agent::{Connecting, Target, TargetStream};
use ringway::demo::rdp_host::DemoHost;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpListener;

const PIPE_BYTES: usize = 64 * 1024;

/// A host that treats each session as this function does.
pub struct Serving<F>(pub F);

impl<F, Served> Target for Serving<F>
where
    F: Fn(DuplexStream) -> Served + Send + Sync,
    Served: Future<Output = ()> + Send + 'static,
{
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
            tokio::spawn((self.0)(ours));
            Ok(Box::new(theirs) as Box<dyn TargetStream>)
        })
    }
}

/// Sends back what it gets.
pub struct Echo;

impl Target for Echo {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async { Serving(echo).connect().await })
    }
}

/// The same over TCP, where a real agent finds its RDP server.
pub async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await
            });
        }
    });
    address
}

async fn echo(stream: DuplexStream) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let _ended = tokio::io::copy(&mut reader, &mut writer).await;
    let _ended = writer.shutdown().await;
}

/// No RDP server listens.
pub struct Refusing;

impl Target for Refusing {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async { Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nobody there")) })
    }
}

/// An RDP server behind a firewall that drops packets.
pub struct Unreachable;

impl Target for Unreachable {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Err(io::Error::from(io::ErrorKind::TimedOut))
        })
    }
}

/// The demo's RDP host, with a copy of every byte that reaches it (first) or
/// leaves it (second).
pub struct Tapped {
    pub host: Arc<DemoHost>,
    pub seen: Arc<Mutex<[Vec<u8>; 2]>>,
}

impl Target for Tapped {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            let (host_reader, host_writer) = tokio::io::split(self.host.connect()?);
            let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
            let (reader, writer) = tokio::io::split(ours);
            tokio::spawn(tap(reader, host_writer, Arc::clone(&self.seen), 0));
            tokio::spawn(tap(host_reader, writer, Arc::clone(&self.seen), 1));
            Ok(Box::new(theirs) as Box<dyn TargetStream>)
        })
    }
}

async fn tap(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    seen: Arc<Mutex<[Vec<u8>; 2]>>,
    direction: usize,
) {
    let mut buffer = vec![0; PIPE_BYTES];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        seen.lock().unwrap()[direction].extend_from_slice(&buffer[..length]);
        if to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    let _ended = to.shutdown().await;
}
