//! Reading, writing, accepting, closing.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::{self, EventFlags};
use socket2::SockRef;

use super::{BATCH_BYTES, Engine, HELLO_BYTES, Route, TURNS_IN_A_ROW, Target, Unclaimed};
use crate::bench::flow::Wrong;
use crate::bench::leg::{Leg, LegError, Progress};
use crate::bench::profile::Profile;
use crate::bench::session::State;
use crate::core::tickets::Role;

/// How the request of a handshake without a session begins. As a session's
/// number it would be far too high.
const PROBE: &[u8] = b"GET /probe ";
const PROBE_ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";

/// What reading brought.
struct Read {
    progress: Progress,
    messages: u32,
    wrong: Option<Wrong>,
    at_ns: u64,
}

impl Engine {
    /// Reads and writes one leg until there is nothing to do, or until it is
    /// the others' turn.
    pub(super) fn advance(&mut self, number: u32, side: Role) {
        for _ in 0..TURNS_IN_A_ROW {
            if !self.pump(number, side) {
                return;
            }
            match self.read(number, side) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.on_error(number, side, &error),
            }
        }
        self.ready.push_back((number, side));
    }

    /// Reads once. Says whether there may be more.
    fn read(&mut self, number: u32, side: Role) -> Result<bool, LegError> {
        let Some(session) = self.sessions.get_mut(number as usize) else { return Ok(false) };
        let profile = session.profile;
        let Some((leg, flow)) = session.receiver(side) else { return Ok(false) };
        if leg.stalled {
            return Ok(false);
        }
        let length = match leg.socket.read(&mut self.input) {
            Ok(0) => {
                self.on_end(number, side);
                return Ok(false);
            }
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        let hung_up = leg.hung_up;
        let at_ns = super::nanos(self.epoch.elapsed());
        let mut read = Read { progress: Progress::default(), messages: 0, wrong: None, at_ns };
        let bytes = self.input.get(..length).unwrap_or_default();
        let (tally, sender) = (&mut self.tally, side.other());
        read.progress = leg.receive(bytes, &mut self.scratch, &mut |data| {
            tally.bytes(sender, data.len() as u64);
            let arrived = flow.arrive(data, at_ns, |age_ns| {
                read.messages += 1;
                tally.message(sender, age_ns);
            });
            if let Err(wrong) = arrived {
                read.wrong.get_or_insert(wrong);
            }
        })?;
        self.after_read(number, side, profile, &read);
        // A short read has emptied the socket, but for its end (epoll(7)).
        Ok(length == BATCH_BYTES || hung_up)
    }

    fn after_read(&mut self, number: u32, side: Role, profile: Profile, read: &Read) {
        if let Some(wrong) = read.wrong {
            let direction = if side == Role::Host { "up" } else { "down" };
            return self.fail(
                number,
                &match wrong {
                    Wrong::Byte(at) => format!("the byte at offset {at} {direction} is wrong"),
                    Wrong::Extra(at) => {
                        format!("there are bytes beyond offset {at} {direction} that nobody sent")
                    }
                },
            );
        }
        if read.progress.opened {
            self.on_leg_open(number, side);
        } else {
            // What a handshake has to say.
            self.pump(number, side);
        }
        if profile == Profile::Ping {
            for _ in 0..read.messages {
                self.answer_ping(number, side, read.at_ns);
            }
        }
        if read.progress.closed {
            self.on_end(number, side);
        }
        self.close_if_settled(number);
    }

    pub(super) fn on_leg_open(&mut self, number: u32, side: Role) {
        let is_through = matches!(self.route, Route::Through { .. });
        let Some(session) = self.sessions.get_mut(number as usize) else { return };
        if let (true, Role::Client, Some(leg)) = (is_through, side, session.leg(side)) {
            let mut hello = std::mem::take(&mut leg.unsent);
            let sealed = leg.seal(&u64::from(number).to_le_bytes(), &mut hello);
            leg.unsent = hello;
            if let Err(error) = sealed {
                return self.fail(number, &error.to_string());
            }
        }
        self.pump(number, side);
        self.go_live_if_complete(number);
    }

    fn go_live_if_complete(&mut self, number: u32) {
        let Some(session) = self.sessions.get_mut(number as usize) else { return };
        if session.state == State::Opening && session.is_complete() {
            session.state = State::Live;
            if let (None, Some(leg)) = (&self.congestion_control, session.leg(Role::Client)) {
                let name = SockRef::from(&leg.socket).tcp_congestion().unwrap_or_default();
                let name = String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned();
                self.congestion_control = Some(name);
            }
            self.census.opened += 1;
            self.begin(number);
        }
    }

    /// Sends what there is to send. Says whether reading may go on.
    pub(super) fn pump(&mut self, number: u32, side: Role) -> bool {
        match self.write(number, side) {
            Ok(()) => true,
            Err(error) => {
                self.on_error(number, side, &error);
                false
            }
        }
    }

    fn write(&mut self, number: u32, side: Role) -> Result<(), LegError> {
        let Some(session) = self.sessions.get_mut(number as usize) else { return Ok(()) };
        let Some((leg, flow)) = session.sender(side) else { return Ok(()) };
        let mut has_more = false;
        for _ in 0..TURNS_IN_A_ROW {
            if leg.blocked {
                return Ok(());
            }
            if leg.unsent.is_empty() {
                if !leg.is_open() {
                    return Ok(());
                }
                self.output.clear();
                while self.output.len() < BATCH_BYTES {
                    let piece = flow.next_piece();
                    if piece.is_empty() {
                        break;
                    }
                    leg.seal(piece, &mut self.output)?;
                    flow.mark_sent(piece.len());
                }
                if self.output.is_empty() {
                    return Ok(());
                }
                let sent = send(leg, &self.output)?;
                leg.unsent.extend_from_slice(self.output.get(sent..).unwrap_or_default());
            } else {
                let unsent = std::mem::take(&mut leg.unsent);
                let sent = send(leg, &unsent)?;
                if sent < unsent.len() {
                    leg.unsent = unsent.get(sent..).unwrap_or_default().to_vec();
                }
            }
            has_more |= !leg.blocked;
        }
        if has_more {
            self.ready.push_back((number, side));
        }
        Ok(())
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
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        return Ok(hello.len() >= HELLO_BYTES);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        };
        match step() {
            Ok(false) => {}
            Ok(true) => self.claim(key),
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
        let target = Target::Leg(number, Role::Host);
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        if let Err(error) = epoll::modify(&self.epoll, &leg.socket, target.pack(), flags) {
            return self.fail(number, &error.to_string());
        }
        session.host = Some(leg);
        if !early.is_empty() {
            return self.fail(number, "there are bytes beyond offset 0 up that nobody sent");
        }
        self.go_live_if_complete(number);
        self.advance(number, Role::Host);
    }

    /// Ends a session whose last bytes have arrived.
    pub(super) fn close_if_settled(&mut self, number: u32) {
        let settled =
            |s: &crate::bench::session::Session| s.state == State::Settling && s.is_settled();
        if self.sessions.get(number as usize).is_some_and(settled) {
            if let Some(session) = self.sessions.get_mut(number as usize) {
                session.state = State::Closing;
            }
            self.say_goodbye(number, Role::Client);
        }
    }

    /// `close_notify` and FIN.
    fn say_goodbye(&mut self, number: u32, side: Role) {
        let Some(session) = self.sessions.get_mut(number as usize) else { return };
        let Some(leg) = session.leg(side) else { return };
        let mut last = std::mem::take(&mut leg.unsent);
        let sealed = leg.seal_close(&mut last);
        leg.unsent = last;
        if sealed.is_ok() {
            self.pump(number, side);
        }
        if let Some(session) = self.sessions.get_mut(number as usize)
            && let Some(leg) = session.leg(side)
        {
            // A reset by the other side has shut it down enough.
            let _ = leg.socket.shutdown(Shutdown::Write);
        }
    }

    /// A stream came to its end.
    fn on_end(&mut self, number: u32, side: Role) {
        let Some(session) = self.sessions.get_mut(number as usize) else { return };
        match (session.state, side) {
            (State::Closed | State::Failed, _) => {}
            // What the client sees counts; the host's end may come first.
            (_, Role::Host) if session.is_doomed => {}
            (_, Role::Client) if session.is_doomed => {
                session.ended_at = Some(Instant::now());
                session.state = State::Closed;
                (session.client, session.host) = (None, None);
                self.census.closed += 1;
            }
            (State::Closing, Role::Host) => self.say_goodbye(number, Role::Host),
            (State::Closing, Role::Client) => {
                session.state = State::Closed;
                (session.client, session.host) = (None, None);
                self.census.closed += 1;
            }
            _ => {
                let missing = (session.up.missing(), session.down.missing());
                let at = (session.up.received(), session.down.received());
                self.fail(number, &format!(
                    "the {side:?} leg was closed at offset {} up ({} bytes missing) and {} down ({} missing)",
                    at.0, missing.0, at.1, missing.1
                ));
            }
        }
    }

    fn on_error(&mut self, number: u32, side: Role, error: &LegError) {
        let is_closing = |s: &crate::bench::session::Session| s.state == State::Closing;
        let is_doomed = |s: &crate::bench::session::Session| s.is_doomed;
        if side == Role::Host && self.sessions.get(number as usize).is_some_and(is_doomed) {
            // It was told to end as well; only the client's end is looked at.
        } else if self.sessions.get(number as usize).is_some_and(is_closing) {
            // All data had arrived; who reset whom first does not matter.
            self.on_end(number, Role::Client);
        } else {
            self.fail(number, &format!("the {side:?} leg: {error}"));
        }
    }
}

/// Writes what the socket takes; less than all means that it is full.
fn send(leg: &mut Leg, bytes: &[u8]) -> Result<usize, LegError> {
    match leg.socket.write(bytes) {
        Ok(sent) => {
            leg.blocked = sent < bytes.len();
            Ok(sent)
        }
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
            leg.blocked = true;
            Ok(0)
        }
        Err(error) => Err(error.into()),
    }
}
