//! Reading, writing, closing.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::time::Instant;

use socket2::SockRef;

use super::{BATCH_BYTES, Engine, TURNS_IN_A_ROW};
use crate::bench::flow::Wrong;
use crate::bench::leg::{Leg, LegError, Progress};
use crate::bench::profile::Profile;
use crate::bench::session::{Session, State, Wire};
use crate::core::tickets::Role;

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
    pub(super) fn advance(&mut self, number: u32, wire: Wire) {
        for _ in 0..TURNS_IN_A_ROW {
            if !self.pump(number, wire) {
                return;
            }
            match self.read(number, wire) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.on_error(number, wire, &error),
            }
        }
        self.ready.push_back((number, wire));
    }

    /// Reads once. Says whether there may be more.
    fn read(&mut self, number: u32, wire: Wire) -> Result<bool, LegError> {
        let Some(session) = self.sessions.get_mut(number as usize) else { return Ok(false) };
        let profile = session.profile;
        let Some((leg, flow)) = session.receiver(wire) else { return Ok(false) };
        if leg.stalled {
            return Ok(false);
        }
        let length = match leg.socket.read(&mut self.input) {
            Ok(0) => {
                self.on_end(number, wire);
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
        let (tally, sender) = (&mut self.tally, wire.role().other());
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
        self.after_read(number, wire, profile, &read);
        // A short read has emptied the socket, but for its end (epoll(7)).
        Ok(length == BATCH_BYTES || hung_up)
    }

    fn after_read(&mut self, number: u32, wire: Wire, profile: Profile, read: &Read) {
        let side = wire.role();
        let is_doomed = self.sessions.get(number as usize).is_some_and(|session| session.is_doomed);
        // What ends RDP for a stock client looks like data.
        if let Some(wrong) = read.wrong.filter(|_| !is_doomed) {
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
        for _ in 0..read.progress.prompts {
            self.prompt(number);
        }
        if read.progress.opened {
            self.on_leg_open(number, wire);
        } else {
            // What a handshake has to say.
            self.pump(number, wire);
        }
        if profile == Profile::Ping {
            for _ in 0..read.messages {
                self.answer_ping(number, side, read.at_ns);
            }
        }
        if read.progress.closed {
            self.on_end(number, wire);
        }
        self.close_if_settled(number);
    }

    /// A client with two connections goes on with its greeting on the second.
    fn prompt(&mut self, number: u32) {
        let Some(session) = self.sessions.get_mut(number as usize) else { return };
        if let Some(second) = session.client_in_later.take() {
            return self.dial(number, Wire::ClientIn, second);
        }
        match session.client_in.as_mut().map(Leg::go_on) {
            Some(Ok(())) => drop(self.pump(number, Wire::ClientIn)),
            Some(Err(error)) => self.fail(number, &error.to_string()),
            None => {}
        }
    }

    pub(super) fn on_leg_open(&mut self, number: u32, wire: Wire) {
        let Some(session) = self.sessions.get_mut(number as usize) else { return };
        let speaks_on = session.speaks_on(Role::Client);
        if let (true, Wire::Client, Some(leg)) = (session.is_told, wire, session.leg(speaks_on)) {
            let mut hello = std::mem::take(&mut leg.unsent);
            let sealed = leg.seal(&u64::from(number).to_le_bytes(), &mut hello);
            leg.unsent = hello;
            if let Err(error) = sealed {
                return self.fail(number, &error.to_string());
            }
            self.pump(number, speaks_on);
        }
        self.pump(number, wire);
        self.go_live_if_complete(number);
    }

    pub(super) fn go_live_if_complete(&mut self, number: u32) {
        let Some(session) = self.sessions.get_mut(number as usize) else { return };
        if session.state == State::Opening && session.is_complete() {
            session.state = State::Live;
            session.turn = None;
            if let (None, Some(leg)) = (&self.congestion_control, session.leg(Wire::Client)) {
                let name = SockRef::from(&leg.socket).tcp_congestion().unwrap_or_default();
                let name = String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned();
                self.congestion_control = Some(name);
            }
            self.census.opened += 1;
            self.begin(number);
        }
    }

    /// Sends what there is to send. Says whether reading may go on.
    pub(super) fn pump(&mut self, number: u32, wire: Wire) -> bool {
        match self.write(number, wire) {
            Ok(()) => true,
            Err(error) => {
                self.on_error(number, wire, &error);
                false
            }
        }
    }

    /// The same for what a side has to say.
    pub(super) fn pump_from(&mut self, number: u32, side: Role) -> bool {
        let session = self.sessions.get(number as usize);
        session.map(|session| session.speaks_on(side)).is_some_and(|wire| self.pump(number, wire))
    }

    fn write(&mut self, number: u32, wire: Wire) -> Result<(), LegError> {
        let Some(session) = self.sessions.get_mut(number as usize) else { return Ok(()) };
        let speaks = session.speaks_on(wire.role()) == wire;
        let Some((leg, flow)) = session.sender(wire) else { return Ok(()) };
        let mut has_more = false;
        for _ in 0..TURNS_IN_A_ROW {
            if leg.blocked {
                return Ok(());
            }
            if leg.unsent.is_empty() {
                if !leg.is_open() || !speaks {
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
            self.ready.push_back((number, wire));
        }
        Ok(())
    }

    /// Ends a session whose last bytes have arrived.
    pub(super) fn close_if_settled(&mut self, number: u32) {
        let settled = |s: &Session| s.state == State::Settling && s.is_settled();
        if self.sessions.get(number as usize).is_some_and(settled) {
            if let Some(session) = self.sessions.get_mut(number as usize) {
                session.state = State::Closing;
            }
            self.say_goodbye(number, Role::Client);
        }
    }

    /// What the framing has for it, `close_notify` and FIN.
    fn say_goodbye(&mut self, number: u32, side: Role) {
        let Some(session) = self.sessions.get_mut(number as usize) else { return };
        let wire = session.speaks_on(side);
        let Some(leg) = session.leg(wire) else { return };
        let mut last = std::mem::take(&mut leg.unsent);
        let sealed = leg.seal_close(&mut last);
        leg.unsent = last;
        if sealed.is_ok() {
            self.pump(number, wire);
        }
        if let Some(session) = self.sessions.get_mut(number as usize)
            && let Some(leg) = session.leg(wire)
        {
            // A reset by the other side has shut it down enough.
            let _ = leg.socket.shutdown(Shutdown::Write);
        }
    }

    /// A stream came to its end.
    fn on_end(&mut self, number: u32, wire: Wire) {
        let Some(session) = self.sessions.get_mut(number as usize) else { return };
        match (session.state, wire) {
            (State::Closed | State::Failed, _) => {}
            // What the client sees counts, where it hears; the host's end may
            // come first.
            (_, Wire::Host | Wire::ClientIn) if session.is_doomed => {}
            (State::Closing, Wire::ClientIn) => {}
            (_, Wire::Client) if session.is_doomed => {
                session.ended_at = Some(Instant::now());
                session.state = State::Closed;
                session.drop_legs();
                self.census.closed += 1;
            }
            (State::Closing, Wire::Host) => self.say_goodbye(number, Role::Host),
            (State::Closing, Wire::Client) => {
                session.state = State::Closed;
                session.drop_legs();
                self.census.closed += 1;
            }
            _ => {
                let missing = (session.up.missing(), session.down.missing());
                let at = (session.up.received(), session.down.received());
                self.fail(number, &format!(
                    "the {wire:?} leg was closed at offset {} up ({} bytes missing) and {} down ({} missing)",
                    at.0, missing.0, at.1, missing.1
                ));
            }
        }
    }

    fn on_error(&mut self, number: u32, wire: Wire, error: &LegError) {
        let is_closing = |s: &Session| s.state == State::Closing;
        let is_doomed = |s: &Session| s.is_doomed;
        if wire != Wire::Client && self.sessions.get(number as usize).is_some_and(is_doomed) {
            // It was told to end as well; only the client's end is looked at.
        } else if self.sessions.get(number as usize).is_some_and(is_closing) {
            // All data had arrived; who reset whom first does not matter.
            self.on_end(number, Wire::Client);
        } else {
            self.fail(number, &format!("the {wire:?} leg: {error}"));
        }
    }
}

/// Writes what the socket takes; less than all means that it is full.
pub(super) fn send(leg: &mut Leg, bytes: &[u8]) -> Result<usize, LegError> {
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
