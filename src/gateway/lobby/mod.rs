//! The lobby: from an accepted connection to a leg (steps 7, 8 and 10).
//!
//! A few threads of tokio-uring: straight-line async code, registered buffers
//! for every read and write, and nothing of it in the path of relayed bytes.
//! The threads share one port (`SO_REUSEPORT`) and no connection.

mod accept;
mod connection;
mod exchange;
pub mod meter;
mod placing;
mod requests;
mod tsgu;
mod waiting;
mod wst;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::bounded;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;

pub use self::accept::BUFFERS;
pub use self::connection::BUFFER_BYTES;
use self::meter::{LobbyPart, Outlet};
pub use self::tsgu::OutChannels;
use super::relay::ring::RingError;
use super::shared::Shared;
use crate::dial::tcp::tune;
use crate::observe::histograms::LobbyHistograms;

/// Connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 4_096;

/// Who greets yields to who relays: where both want a core, people at work go
/// before people who come, who still get a share of one in sixty. Together with
/// the workers' short turns this keeps p99 of 300 sessions within one and a half
/// times what it was while 500 clients a second shake hands on the same core
/// (`perf/experiments.md`).
const NICENESS: i32 = 19;

/// The port, opened once per lobby thread.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(address: SocketAddr, threads: u16) -> io::Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    for _ in 0..threads.max(1) {
        // The first one may get its port from the kernel; the rest share it.
        let address = match listeners.first() {
            Some(first) => first.local_addr()?,
            None => address,
        };
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        // Of a session nobody else notices that a peer has vanished.
        tune(&socket)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        listeners.push(socket.into());
    }
    Ok(listeners)
}

/// The control thread's ends of what the lobby threads measure: an empty set to
/// each, and a full one back.
#[derive(Debug)]
pub struct LobbyMeters {
    pub ask: Vec<mpsc::Sender<Box<LobbyHistograms>>>,
    pub parts: mpsc::Receiver<LobbyPart>,
}

/// Starts one thread per listener and waits until each can work. They end when
/// the phase becomes `Stopped`, or nobody is left to change it.
///
/// # Errors
/// When a thread cannot be started, or its ring or buffers cannot be made.
pub fn start(
    listeners: Vec<TcpListener>,
    shared: &Arc<Shared>,
) -> Result<(Vec<JoinHandle<()>>, LobbyMeters), RingError> {
    let failed = RingError::at("a lobby thread");
    let (parts, full) = mpsc::channel(listeners.len().max(1));
    let mut ask = Vec::new();
    let threads: Result<_, RingError> = listeners
        .into_iter()
        .enumerate()
        .map(|(index, listener)| {
            let shared = Arc::clone(shared);
            let (ready, is_ready) = bounded(1);
            let (empty, asked) = mpsc::channel(1);
            ask.push(empty);
            let outlet = Outlet { thread: index, asked, parts: parts.clone() };
            let thread = std::thread::Builder::new()
                .name(format!("lobby-{index}"))
                .spawn(move || {
                    // Only ever raised: this needs no privilege and cannot fail.
                    let _ = rustix::process::nice(NICENESS);
                    accept::run(listener, shared, outlet, &ready);
                })
                .map_err(&failed)?;
            match is_ready.recv() {
                Ok(outcome) => outcome.map(|()| thread),
                Err(_) => Err(failed(io::Error::other("it ended at once"))),
            }
        })
        .collect();
    Ok((threads?, LobbyMeters { ask, parts: full }))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use socket2::SockRef;

    use super::*;

    #[test]
    fn accepted_connections_notice_a_peer_that_vanished() {
        let listeners = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let _peer = TcpStream::connect(listeners[0].local_addr().unwrap()).unwrap();
        let (accepted, _) = listeners[0].accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
        // The kernel's own are two hours and for ever.
        assert!(accepted.tcp_keepalive_time().unwrap().as_secs() < 120);
        assert!(accepted.tcp_user_timeout().unwrap().is_some());
    }
}
