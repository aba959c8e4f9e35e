//! A longer way to the same place: what goes through arrives later.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Ends with everything that goes through it when it is dropped.
pub struct SlowPath {
    pub address: SocketAddr,
    _ways: JoinSet<()>,
}

impl SlowPath {
    /// A port that leads to `target`; a round trip takes `delay` longer.
    pub async fn start(target: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut ways = JoinSet::new();
        ways.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(target).await else { continue };
                for end in [&near, &far] {
                    end.set_nodelay(true).unwrap();
                }
                let ((near_read, near_write), (far_read, far_write)) =
                    (near.into_split(), far.into_split());
                open.spawn(carry(near_read, far_write, delay));
                open.spawn(carry(far_read, near_write, Duration::ZERO));
            }
        });
        Self { address, _ways: ways }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        tokio::time::sleep(delay).await;
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    // A peer that is gone needs no end.
    let _ = to.shutdown().await;
}
