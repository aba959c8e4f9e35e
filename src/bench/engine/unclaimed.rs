//! Legs of session hosts that do not know yet whose they are: those that come to
//! the sink, and those that are ordered for a client that the gateway has placed.
//! The first bytes of the session say it.

use std::io::{ErrorKind, Read as _};
use std::sync::Arc;

use rustix::event::epoll::{self, EventFlags};

use super::io::send;
use super::{Engine, HELLO_BYTES, Route, Target};
use crate::bench::leg::{Leg, LegError};
use crate::bench::session::{Later, State, Wire};

/// How the request of a handshake without a session begins. As a session's
/// number it would be far too high.
const PROBE: &[u8] = b"GET /probe ";
const PROBE_ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";

/// A leg that has not been told whose it is.
pub(super) struct Unclaimed {
    leg: Leg,
    hello: Vec<u8>,
}

impl Engine {
    pub(super) fn dial_unclaimed(&mut self, to: Later) {
        let key = self.unclaimed.vacant_key();
        match self.begin_leg(Target::Unclaimed(key), to) {
            Ok(leg) => {
                self.unclaimed.insert(Unclaimed { leg, hello: Vec::new() });
            }
            Err(error) => self.faults.add(format!("a host's leg: {error}")),
        }
    }

    pub(super) fn accept(&mut self) {
        loop {
            let (Some(listener), Route::Through { sink_tls, .. }) = (&self.listener, &self.route)
            else {
                return;
            };
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.faults.add(format!("accepting: {error}")),
            };
            let key = self.unclaimed.vacant_key();
            let tls = sink_tls.as_ref().map(Arc::clone);
            let taken = socket
                .set_nonblocking(true)
                .and_then(|()| socket.set_nodelay(true))
                .and_then(|()| self.watch(&socket, Target::Unclaimed(key)))
                .map_err(LegError::from)
                .and_then(|()| Leg::accepted(socket, tls));
            match taken {
                Ok(leg) => {
                    self.unclaimed.insert(Unclaimed { leg, hello: Vec::new() });
                }
                Err(error) => self.faults.add(format!("accepting: {error}")),
            }
        }
    }

    /// Reads from a leg that has not said whose it is.
    pub(super) fn hear_hello(&mut self, key: usize) {
        let Some(Unclaimed { leg, hello }) = self.unclaimed.get_mut(key) else { return };
        let mut step = || -> Result<bool, LegError> {
            loop {
                if !leg.unsent.is_empty() {
                    let unsent = std::mem::take(&mut leg.unsent);
                    leg.blocked = false;
                    let sent = send(leg, &unsent)?;
                    leg.unsent = unsent.get(sent..).unwrap_or_default().to_vec();
                }
                match leg.socket.read(&mut self.input) {
                    Ok(0) => return Err(LegError::Cut),
                    Ok(length) => {
                        let bytes = self.input.get(..length).unwrap_or_default();
                        leg.receive(bytes, &mut self.scratch, &mut |data| {
                            hello.extend_from_slice(data)
                        })?;
                    }
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::WouldBlock | ErrorKind::NotConnected
                        ) =>
                    {
                        return Ok(hello.len() >= HELLO_BYTES);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        };
        match step() {
            Ok(false) => {}
            Ok(true) => self.claim(key),
            Err(error) if matches!(self.route, Route::Arranged { .. }) => {
                self.unclaimed.remove(key);
                self.faults.add(format!("a host's leg: {error}"));
            }
            Err(error) => {
                // A relay that looks whether its target is there.
                tracing::debug!(%error, "A connection came to the sink and left without a word");
                self.unclaimed.remove(key);
            }
        }
    }

    fn claim(&mut self, key: usize) {
        let Some(Unclaimed { mut leg, hello }) = self.unclaimed.try_remove(key) else { return };
        if hello.starts_with(PROBE) {
            // A handshake without a session, which a relay passes on like any
            // other: its request is answered, and that was all.
            let mut answer = Vec::new();
            let sealed =
                leg.seal(PROBE_ANSWER, &mut answer).and_then(|()| leg.seal_close(&mut answer));
            if let Err(error) = sealed.and_then(|()| send(&mut leg, &answer)) {
                tracing::debug!(%error, "A handshake that came to the sink was not answered");
            }
            return;
        }
        let Some((number, early)) = hello.split_first_chunk::<HELLO_BYTES>() else { return };
        let number = u32::try_from(u64::from_le_bytes(*number)).unwrap_or(u32::MAX);
        let Some(session) = self.sessions.get_mut(number as usize) else {
            return self.faults.add(format!("a leg came for session {number}, which there is not"));
        };
        if session.host.is_some() || session.state != State::Opening {
            return self.faults.add(format!("a second leg came for session {number}"));
        }
        let target = Target::Leg(number, Wire::Host);
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        if let Err(error) = epoll::modify(&self.epoll, &leg.socket, target.pack(), flags) {
            return self.fail(number, &error.to_string());
        }
        session.host = Some(leg);
        if !early.is_empty() {
            return self.fail(number, "there are bytes beyond offset 0 up that nobody sent");
        }
        self.go_live_if_complete(number);
        self.advance(number, Wire::Host);
    }
}
