//! One lobby thread: accepts, and gives each connection a task.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crossbeam::channel::Sender;
use tokio::io::unix::AsyncFd;
use tokio_uring::buf::fixed::FixedBufPool;
use tokio_uring::net::TcpStream;

use super::connection::{BUFFER_BYTES, Connection};
use super::meter::{Meter, Outlet};
use super::requests;
use crate::gateway::relay::ring::{RingError, listener_readiness};
use crate::gateway::shared::{Phase, Shared, lock};

/// Entries of a lobby's ring; connections wait in epoll, so few are in it.
const RING_ENTRIES: u32 = 512;
/// Registered buffers per lobby thread. One is held only while bytes move.
pub const BUFFERS: usize = 64;
/// Pause when no descriptor is left: long enough not to spin, short enough
/// that nobody's connection attempt times out over it.
const NO_DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);

/// Says once over `ready` whether it can work, and then works.
pub fn run(
    listener: TcpListener,
    shared: Arc<Shared>,
    outlet: Outlet,
    ready: &Sender<Result<(), RingError>>,
) {
    let _alive = shared.health.lobby_enters();
    let mut ring = tokio_uring::uring_builder();
    // A lobby thread is the only one to use its ring, and wants completions
    // when it looks for them, not as interrupts.
    ring.setup_single_issuer().setup_coop_taskrun();
    let mut builder = tokio_uring::builder();
    builder.entries(RING_ENTRIES).uring_builder(&ring);
    let runtime = match tokio_uring::Runtime::new(&builder) {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(RingError::at("a lobby thread's ring")(error)));
            return;
        }
    };
    runtime.block_on(async move {
        let buffers = FixedBufPool::new(
            std::iter::repeat_with(|| Vec::with_capacity(BUFFER_BYTES)).take(BUFFERS),
        );
        if let Err(error) = buffers.register() {
            let _ = ready.send(Err(RingError::at("a lobby thread's registered buffers")(error)));
            return;
        }
        let _ = ready.send(Ok(()));
        let meter = Rc::new(Meter::default());
        tokio_uring::spawn(outlet.serve(Rc::clone(&meter)));
        accept_until_stopped(listener, &shared, &buffers, &meter).await;
    });
}

async fn accept_until_stopped(
    listener: TcpListener,
    shared: &Arc<Shared>,
    buffers: &FixedBufPool<Vec<u8>>,
    meter: &Rc<Meter>,
) {
    let listener = match listener_readiness(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "A lobby thread cannot wait for clients"),
    };
    let mut phase = shared.phase.clone();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            // Draining goes on accepting, to say so; stopped does not.
            _ = phase.wait_for(|phase| *phase == Phase::Stopped) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                shared.counters.accepted.fetch_add(1, Relaxed);
                let Some(presence) = Presence::enter(shared, peer.ip()) else {
                    shared.counters.turned_away.fetch_add(1, Relaxed);
                    continue;
                };
                let meter = Rc::clone(meter);
                let stream = TcpStream::from_std(stream);
                match Connection::new(stream, peer, shared, buffers.clone(), meter) {
                    Ok(connection) => {
                        tokio_uring::spawn(async move {
                            requests::serve(connection).await;
                            drop(presence);
                        });
                    }
                    Err(error) => tracing::debug!(%peer, %error, "Dropped a connection"),
                }
            }
            Err(error) if is_out_of_descriptors(&error) => {
                let pauses = shared.counters.accept_pauses.fetch_add(1, Relaxed);
                if pauses.is_multiple_of(100) {
                    tracing::warn!(%error, pauses, "Paused accepting; raise LimitNOFILE= of the unit");
                }
                tokio::time::sleep(NO_DESCRIPTOR_PAUSE).await;
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "Accepting failed");
                tokio::time::sleep(NO_DESCRIPTOR_PAUSE).await;
            }
        }
    }
}

/// Not by the ring: a runtime of tokio-uring that ends frees the place for the
/// peer's address before the kernel has given up writing to it.
async fn accept(listener: &AsyncFd<TcpListener>) -> io::Result<(std::net::TcpStream, SocketAddr)> {
    loop {
        let mut ready = listener.readable().await?;
        if let Ok(accepted) = ready.try_io(|listener| listener.get_ref().accept()) {
            return accepted;
        }
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// A connection's place in the lobby, given back when dropped.
#[derive(Debug)]
pub struct Presence {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl Presence {
    fn enter(shared: &Arc<Shared>, address: IpAddr) -> Option<Self> {
        if !lock(&shared.lobby_by_address).enter(address) {
            return None;
        }
        let now = shared.counters.connections_now.fetch_add(1, Relaxed);
        // Made before the check, so that its drop undoes the counts.
        let presence = Self { shared: Arc::clone(shared), address };
        (now < u64::from(shared.config().limits.lobby_connections_max)).then_some(presence)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.shared.counters.connections_now.fetch_sub(1, Relaxed);
        lock(&self.shared.lobby_by_address).leave(self.address);
    }
}
