//! What one lobby thread measures. Its connections record into one set without
//! a lock, for they are tasks of one thread; the control thread reads by
//! exchanging the set for an empty one.

use std::cell::RefCell;
use std::rc::Rc;

use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::observe::histograms::{LobbyHistograms, record};

/// A lobby thread's number and what it measured until it was asked.
pub type LobbyPart = (usize, Box<LobbyHistograms>);

/// Records for one lobby thread.
#[derive(Debug, Default)]
pub struct Meter(RefCell<Box<LobbyHistograms>>);

impl Meter {
    /// Records the time that has passed since `begun`.
    pub fn record(
        &self,
        of: impl FnOnce(&mut LobbyHistograms) -> &mut Histogram<u64>,
        begun: Instant,
    ) {
        record(of(&mut self.0.borrow_mut()), begun.elapsed());
    }
}

/// The thread's ends of the exchange.
#[derive(Debug)]
pub struct Outlet {
    pub thread: usize,
    /// Empty sets, to go on with.
    pub asked: mpsc::Receiver<Box<LobbyHistograms>>,
    pub parts: mpsc::Sender<LobbyPart>,
}

impl Outlet {
    /// Gives out what was measured whenever it is asked for.
    pub async fn serve(mut self, meter: Rc<Meter>) {
        while let Some(empty) = self.asked.recv().await {
            let full = meter.0.replace(empty);
            // There is room for one part of each thread.
            if self.parts.send((self.thread, full)).await.is_err() {
                return;
            }
        }
    }
}
