//! A sender that pushes as much as is taken, to meet backpressure.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use socket2::SockRef;
use tokio::io::{ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use super::legs::Leg;
use super::pattern;
use super::wait::standstill;

const STEP: usize = 64 * 1024;

/// Pushes stream 1 of the pattern.
pub struct Pusher {
    taken: Arc<AtomicUsize>,
    /// Gives the sending half back when all is sent, or the connection failed.
    pub pushing: JoinHandle<WriteHalf<TlsStream<TcpStream>>>,
    pub reading: ReadHalf<TlsStream<TcpStream>>,
}

impl Pusher {
    pub fn start(leg: Leg, length: usize) -> Self {
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        let (reading, mut writing) = split(leg.0);
        let pushing = tokio::spawn(async move {
            for at in (0..length).step_by(STEP) {
                let end = (at + STEP).min(length);
                if pattern::send(&mut writing, 1, at..end, STEP).await.is_err() {
                    break;
                }
                count.store(end, Relaxed);
            }
            writing
        });
        Self { taken, pushing, reading }
    }

    /// Waits until the sender has been at a standstill for a while; gives back
    /// what was taken until then.
    pub async fn stalled(&self) -> usize {
        standstill("the sender", || self.taken.load(Relaxed)).await
    }
}

/// Keeps the kernel's share of what is under way small and fixed.
pub fn small_socket_buffers(leg: &Leg) {
    let socket = SockRef::from(leg.0.get_ref().0);
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    socket.set_send_buffer_size(64 * 1024).unwrap();
}
