//! Handshakes beside sessions: many users who dial at once, on a thread that
//! stands back. They would come from other machines; on the thread of the
//! sessions each would hold these up for as long as a client computes, and the
//! generator's pauses would look like the relay's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow};

use super::engine::{Engine, EngineSettings, Pace, Route};
use super::options::Common;
use super::tally::{Faults, Tally};
use super::target::Target;
use crate::gateway::relay::ring::take_short_turns;

/// The lowest: the thread of the sessions runs whenever it wants to.
const NICENESS: i32 = 19;

/// A storm that blows until it is [`Storm::calm`]ed.
#[derive(Debug)]
pub struct Storm {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<(Tally, Faults)>>,
}

impl Storm {
    /// That many full handshakes a second from now on. The calling thread, which
    /// has the sessions, is let in before a handshake's computing is done.
    ///
    /// # Errors
    /// When the target has no TLS, or there is no thread to be had.
    pub fn begin(target: &Target, common: &Common, per_s: f64) -> anyhow::Result<Self> {
        take_short_turns().context("asking the scheduler for short turns")?;
        let (tls, shake_at) = target.door(common)?;
        let tls = Some(tls.context("handshakes need a target with TLS")?);
        let seed = common.seed;
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_over);
        let thread = std::thread::Builder::new().name("storm".to_owned()).spawn(move || {
            rustix::process::nice(NICENESS)?;
            let bulk = (false, false);
            let shake_at = Some(shake_at);
            let route = Route::Nowhere;
            let mut engine = Engine::new(EngineSettings { route, tls, shake_at, seed, bulk })?;
            engine.shake(Pace::PerSecond(per_s));
            engine.run(Duration::MAX, |_| stop.load(Ordering::Relaxed))?;
            Ok((engine.tally, engine.faults))
        })?;
        Ok(Self { is_over, thread })
    }

    /// Ends it and adds up what came of it.
    ///
    /// # Errors
    /// When its thread gave out.
    pub fn calm(self, tally: &mut Tally, faults: &mut Faults) -> anyhow::Result<()> {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.thread.join().map_err(|_| anyhow!("the storm's thread panicked"))?;
        let (of_storm, its_faults) = ended.context("the storm")?;
        tally.handshake_us = of_storm.handshake_us;
        tally.handshakes_failed = of_storm.handshakes_failed;
        its_faults.list().into_iter().for_each(|fault| faults.add(fault));
        Ok(())
    }
}
