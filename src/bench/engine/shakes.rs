//! Handshakes without a session: connect, full TLS handshake, one small
//! request, its answer, close.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use rustls::pki_types::ServerName;
use slab::Slab;

use super::{Engine, Target, dial};
use crate::bench::greeting::Greeting;
use crate::bench::leg::{Leg, LegError};

/// One that takes longer has failed.
const PATIENCE_NS: u64 = 5_000_000_000;

/// How many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    Off,
    /// That many at once, as fast as they go.
    AtOnce(usize),
    /// That many a second, whatever became of those before.
    PerSecond(f64),
}

struct Shake {
    leg: Leg,
    /// When it was meant to begin.
    intended_ns: u64,
}

pub(super) struct Shakes {
    at: Option<(SocketAddr, ServerName<'static>)>,
    pace: Pace,
    next_ns: u64,
    live: Slab<Shake>,
}

impl Shakes {
    pub(super) fn new(at: Option<(SocketAddr, ServerName<'static>)>) -> Self {
        Self { at, pace: Pace::Off, next_ns: u64::MAX, live: Slab::new() }
    }

    pub(super) const fn next_due_ns(&self) -> u64 {
        self.next_ns
    }
}

impl Engine {
    pub fn shake(&mut self, pace: Pace) {
        self.shakes.pace = pace;
        self.shakes.next_ns = if pace == Pace::Off { u64::MAX } else { self.now_ns() };
    }

    /// Begins those that are due.
    pub(super) fn shake_due(&mut self) {
        let now_ns = self.now_ns();
        if now_ns < self.shakes.next_ns {
            return;
        }
        match self.shakes.pace {
            Pace::Off => self.shakes.next_ns = u64::MAX,
            Pace::AtOnce(most) => {
                while self.shakes.live.len() < most && self.begin_shake(now_ns) {}
                // Each that ends begins the next; this looks after the lost.
                self.shakes.next_ns = now_ns + 100_000_000;
                self.drop_stale_shakes(now_ns);
            }
            Pace::PerSecond(rate) => {
                let interval_ns = std::time::Duration::from_secs_f64(1.0 / rate.max(0.001));
                let intended_ns = self.shakes.next_ns;
                self.shakes.next_ns = intended_ns + super::nanos(interval_ns);
                self.begin_shake(intended_ns);
                self.drop_stale_shakes(now_ns);
            }
        }
    }

    fn begin_shake(&mut self, intended_ns: u64) -> bool {
        let Some((address, name)) = self.shakes.at.clone() else { return false };
        let key = self.shakes.live.vacant_key();
        let tls = self.tls.clone().map(|config| (config, name));
        let request =
            format!("GET /probe HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        let begun = dial(address).map_err(LegError::from).and_then(|socket| {
            self.watch(&socket, Target::Shake(key))?;
            Leg::dialling(socket, tls, Greeting::Once(request))
        });
        match begun {
            Ok(leg) => {
                self.shakes.live.insert(Shake { leg, intended_ns });
                true
            }
            Err(error) => {
                self.tally.handshakes_failed += 1;
                self.faults.add(format!("a handshake: {error}"));
                false
            }
        }
    }

    pub(super) fn advance_shake(&mut self, key: usize) {
        let now_ns = self.now_ns();
        let Some(shake) = self.shakes.live.get_mut(key) else { return };
        let Shake { leg, intended_ns } = shake;
        let mut step = || -> Result<bool, LegError> {
            loop {
                while !leg.unsent.is_empty() {
                    match leg.socket.write(&leg.unsent) {
                        Ok(sent) => drop(leg.unsent.drain(..sent)),
                        Err(error) if is_not_yet(&error) => break,
                        Err(error) => return Err(error.into()),
                    }
                }
                match leg.socket.read(&mut self.input) {
                    Ok(0) => return Err(LegError::Cut),
                    Ok(length) => {
                        let bytes = self.input.get(..length).unwrap_or_default();
                        if leg.receive(bytes, &mut self.scratch, &mut |_| {})?.answered {
                            return Ok(true);
                        }
                    }
                    Err(error) if is_not_yet(&error) => return Ok(false),
                    Err(error) => return Err(error.into()),
                }
            }
        };
        match step() {
            Ok(false) => return,
            Ok(true) => {
                let age_us = now_ns.saturating_sub(*intended_ns) / 1_000;
                self.tally.handshake_us.saturating_record(age_us);
            }
            Err(error) => {
                self.tally.handshakes_failed += 1;
                self.faults.add(format!("a handshake: {error}"));
            }
        }
        self.shakes.live.remove(key);
        if matches!(self.shakes.pace, Pace::AtOnce(_)) {
            self.begin_shake(now_ns);
        }
    }

    fn drop_stale_shakes(&mut self, now_ns: u64) {
        let stale: Vec<usize> = self
            .shakes
            .live
            .iter()
            .filter(|(_, shake)| now_ns.saturating_sub(shake.intended_ns) > PATIENCE_NS)
            .map(|(key, _)| key)
            .collect();
        for key in stale {
            self.shakes.live.remove(key);
            self.tally.handshakes_failed += 1;
            self.faults.add("a handshake: no answer in time".to_owned());
        }
    }
}

/// Not connected, or nothing there, or no room.
fn is_not_yet(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::WouldBlock
            | std::io::ErrorKind::NotConnected
            | std::io::ErrorKind::Interrupted
    )
}
