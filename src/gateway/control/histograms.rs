//! What all threads of the gateway measured: collected without stopping one,
//! kept since the start for whoever asks, and cut into intervals for the dumps.
//!
//! A round of collecting asks each thread to exchange its set for an empty one
//! and is over when all have, or when its time is up: a thread that is late is
//! not asked again before it has answered, and what it has comes with a later
//! round.

use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::Control;
use crate::gateway::dumps::DumpWriter;
use crate::gateway::lobby::meter::LobbyPart;
use crate::gateway::relay::{Command, Events, RelayWorker};
use crate::observe::histogram_log::Interval;
use crate::observe::histograms::{
    ControlHistograms, HistogramSet, LobbyHistograms, Merged, RelayHistograms,
};

/// For all threads to answer. Each does within a turn of its loop.
const ROUND_MAX: Duration = Duration::from_secs(2);

/// What one thread measured. Its own sets have their full size from the start;
/// what is kept of them grows with the longest time that was measured.
struct Thread<S> {
    name: String,
    since_start: Merged,
    since_dump: Merged,
    /// To be exchanged next; its memory is warm.
    spare: Option<Box<S>>,
    /// It was asked and has not answered.
    is_asked: bool,
}

impl<S: HistogramSet> Thread<S> {
    fn new(name: String) -> Self {
        let (since_start, since_dump) = (Merged::default(), Merged::default());
        Self { name, since_start, since_dump, spare: None, is_asked: false }
    }

    fn many(kind: &str, count: usize) -> Vec<Self> {
        (0..count).map(|index| Self::new(format!("{kind}-{index}"))).collect()
    }

    /// Hands an empty set to `exchange`, which says whether the thread got it.
    fn ask(&mut self, exchange: impl FnOnce(Box<S>) -> bool) {
        if !self.is_asked {
            self.is_asked = exchange(self.spare.take().unwrap_or_default());
        }
    }

    fn keep(&mut self, mut part: Box<S>) {
        for (measure, values) in part.each().filter(|(_, values)| !values.is_empty()) {
            for kept in [&mut self.since_start, &mut self.since_dump] {
                // Counts of 64 bits do not overflow within a gateway's life.
                let _ = kept.add(measure.as_str(), values);
            }
        }
        part.clear();
        self.spare = Some(part);
        self.is_asked = false;
    }

    fn merge_into(&self, all: &mut Merged) {
        for (measure, values) in self.since_start.iter() {
            let _ = all.add(measure, values);
        }
    }

    fn cut(&mut self, lines: &mut Vec<(String, Histogram<u64>)>) {
        for (measure, values) in std::mem::take(&mut self.since_dump) {
            lines.push((format!("{}/{measure}", self.name), values));
        }
    }
}

/// Who waits for a round, and what for.
#[derive(Default)]
struct Wishes {
    answers: Vec<oneshot::Sender<Merged>>,
    dump: bool,
}

impl Wishes {
    fn is_empty(&self) -> bool {
        self.answers.is_empty() && !self.dump
    }
}

impl Control {
    pub(super) fn on_lobby(&mut self, part: LobbyPart) {
        self.histograms.on_lobby(part, &self.shared.workers);
    }

    /// What was measured until the end. Workers have ended by now, and what
    /// they had is in their queue.
    pub(super) async fn dump_the_last(
        &mut self,
        events: &Events,
        lobby: &mut mpsc::Receiver<LobbyPart>,
    ) {
        self.on_workers(events);
        self.histograms.dump(&self.shared.workers);
        while let Some(deadline) = self.histograms.deadline() {
            tokio::select! {
                Some(part) = lobby.recv() => self.on_lobby(part),
                () = sleep_until(deadline) => {
                    self.on_workers(events);
                    self.histograms.end_if_due(&self.shared.workers);
                }
            }
        }
    }
}

/// Where an interval begins, by both clocks: dumps tell the time of day, and
/// last as long as they last when that is set.
#[derive(Clone, Copy)]
struct Cut {
    at: SystemTime,
    instant: Instant,
}

impl Cut {
    fn now() -> Self {
        Self { at: SystemTime::now(), instant: Instant::now() }
    }
}

/// The control thread's part in measuring.
pub(super) struct Histograms {
    /// What this thread measures itself.
    pub own: Box<ControlHistograms>,
    control: Thread<ControlHistograms>,
    lobby: Vec<Thread<LobbyHistograms>>,
    workers: Vec<Thread<RelayHistograms>>,
    ask_lobby: Vec<mpsc::Sender<Box<LobbyHistograms>>>,
    /// The round under way, and when its time is up.
    round: Option<(Wishes, Instant)>,
    /// For the next one: whoever asks now may have measured something that a
    /// round under way has missed.
    next: Wishes,
    last_cut: Cut,
    interval: Option<Duration>,
    /// A dump was asked for when the writer had no room.
    is_owed: bool,
    writer: DumpWriter,
}

impl Histograms {
    /// Dumps every `interval`; never by itself without one.
    pub fn new(
        workers: usize,
        ask_lobby: Vec<mpsc::Sender<Box<LobbyHistograms>>>,
        interval: Option<Duration>,
        writer: DumpWriter,
    ) -> Self {
        Self {
            own: Box::default(),
            control: Thread::new("control".into()),
            lobby: Thread::many("lobby", ask_lobby.len()),
            workers: Thread::many("relay", workers),
            ask_lobby,
            round: None,
            next: Wishes::default(),
            last_cut: Cut::now(),
            interval,
            is_owed: false,
            writer,
        }
    }

    /// Answers with everything since the start.
    pub fn answer(&mut self, to: oneshot::Sender<Merged>, workers: &[RelayWorker]) {
        self.next.answers.push(to);
        self.begin(workers);
    }

    /// Ends the interval and has it written.
    pub fn dump(&mut self, workers: &[RelayWorker]) {
        self.next.dump = true;
        self.begin(workers);
    }

    /// Looks at the time: a second late is early enough.
    pub fn tick(&mut self, workers: &[RelayWorker]) {
        let is_over = |interval| self.last_cut.instant.elapsed() >= interval;
        if self.is_owed || self.interval.is_some_and(is_over) {
            self.dump(workers);
        }
        self.end_if_due(workers);
    }

    pub fn on_worker(&mut self, worker: usize, part: Box<RelayHistograms>, all: &[RelayWorker]) {
        if let Some(thread) = self.workers.get_mut(worker) {
            thread.keep(part);
        }
        self.end_if_due(all);
    }

    pub fn on_lobby(&mut self, (thread, part): LobbyPart, workers: &[RelayWorker]) {
        if let Some(thread) = self.lobby.get_mut(thread) {
            thread.keep(part);
        }
        self.end_if_due(workers);
    }

    /// When the round under way is over at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.round.as_ref().map(|(_, deadline)| *deadline)
    }

    /// Waits until what was dumped is on the disk, if the disk lets it.
    pub fn finish(self) {
        self.writer.finish();
    }

    fn begin(&mut self, workers: &[RelayWorker]) {
        if self.round.is_some() || self.next.is_empty() {
            return;
        }
        self.round = Some((std::mem::take(&mut self.next), Instant::now() + ROUND_MAX));
        for (thread, worker) in self.workers.iter_mut().zip(workers) {
            // One that has ended takes no order; all it had has come.
            thread.ask(|empty| worker.tell(Command::ExchangeHistograms(empty)).is_ok());
        }
        for (thread, ask) in self.lobby.iter_mut().zip(&self.ask_lobby) {
            thread.ask(|empty| ask.try_send(empty).is_ok());
        }
        let empty = self.control.spare.take().unwrap_or_default();
        self.control.keep(std::mem::replace(&mut self.own, empty));
        self.end_if_due(workers);
    }

    /// Ends the round when nobody is missing or its time is up.
    fn end_if_due(&mut self, workers: &[RelayWorker]) {
        let Some((_, deadline)) = &self.round else { return };
        let missing = self.workers.iter().any(|thread| thread.is_asked)
            || self.lobby.iter().any(|thread| thread.is_asked);
        if missing && Instant::now() < *deadline {
            return;
        }
        let Some((wishes, _)) = self.round.take() else { return };
        if wishes.dump {
            self.cut();
        }
        if !wishes.answers.is_empty() {
            let mut all = Merged::with_all_of_ours();
            self.control.merge_into(&mut all);
            self.lobby.iter().for_each(|thread| thread.merge_into(&mut all));
            self.workers.iter().for_each(|thread| thread.merge_into(&mut all));
            for waiter in wishes.answers {
                let _ = waiter.send(all.clone());
            }
        }
        self.begin(workers);
    }

    /// The end of one interval is the begin of the next.
    fn cut(&mut self) {
        if !self.writer.has_room() {
            // Nothing is lost: the interval goes on for another tick.
            tracing::warn!("Histograms are dumped later: the disk has not taken the last ones");
            self.is_owed = true;
            return;
        }
        self.is_owed = false;
        let begun = std::mem::replace(&mut self.last_cut, Cut::now());
        let mut histograms = Vec::new();
        self.control.cut(&mut histograms);
        self.lobby.iter_mut().for_each(|thread| thread.cut(&mut histograms));
        self.workers.iter_mut().for_each(|thread| thread.cut(&mut histograms));
        let length = self.last_cut.instant.duration_since(begun.instant);
        self.writer.write(Interval { start: begun.at, length, histograms });
    }
}

#[cfg(test)]
mod tests {
    use crossbeam::channel::Receiver;

    use super::*;

    type Lobby = mpsc::Receiver<Box<LobbyHistograms>>;

    /// With one lobby thread, which the test plays.
    fn setting() -> (Histograms, Lobby, Receiver<Interval>) {
        let (writer, written) = DumpWriter::for_test();
        let (ask, asked) = mpsc::channel(1);
        (Histograms::new(0, vec![ask], None, writer), asked, written)
    }

    fn ask(histograms: &mut Histograms) -> oneshot::Receiver<Merged> {
        let (to, answered) = oneshot::channel();
        histograms.answer(to, &[]);
        answered
    }

    /// The lobby thread answers, having measured one handshake.
    fn answer(histograms: &mut Histograms, lobby: &mut Lobby) {
        let mut part = lobby.try_recv().unwrap();
        assert!(part.each().all(|(_, values)| values.is_empty()), "not empty");
        part.handshake_us.saturating_record(5);
        histograms.on_lobby((0, part), &[]);
    }

    fn time_is_up(histograms: &mut Histograms) {
        histograms.round.as_mut().unwrap().1 = Instant::now();
        histograms.tick(&[]);
    }

    fn handshakes(answered: &mut oneshot::Receiver<Merged>) -> Option<u64> {
        Some(answered.try_recv().ok()?.get("handshake")?.len())
    }

    #[test]
    fn who_asks_during_a_round_is_answered_by_the_next() {
        let (mut histograms, mut lobby, _written) = setting();
        let mut early = ask(&mut histograms);
        let mut late = ask(&mut histograms);
        assert!(handshakes(&mut early).is_none());
        answer(&mut histograms, &mut lobby);
        assert_eq!((handshakes(&mut early), handshakes(&mut late)), (Some(1), None));
        answer(&mut histograms, &mut lobby);
        assert_eq!(handshakes(&mut late), Some(2));
        assert!(lobby.try_recv().is_err(), "asked without need");
    }

    #[test]
    fn a_late_thread_delays_nobody_for_ever_and_loses_nothing() {
        let (mut histograms, mut lobby, written) = setting();
        histograms.own.place_us.saturating_record(7);
        let mut first = ask(&mut histograms);
        time_is_up(&mut histograms);
        assert_eq!(handshakes(&mut first), Some(0));
        histograms.dump(&[]);
        time_is_up(&mut histograms);
        let tags = |interval: Interval| -> Vec<(String, u64)> {
            interval.histograms.into_iter().map(|(tag, values)| (tag, values.len())).collect()
        };
        assert_eq!(tags(written.try_recv().unwrap()), [("control/place".to_owned(), 1)]);
        // It was asked once, and what it had counts from now on.
        answer(&mut histograms, &mut lobby);
        assert!(lobby.try_recv().is_err());
        histograms.dump(&[]);
        answer(&mut histograms, &mut lobby);
        assert_eq!(tags(written.try_recv().unwrap()), [("lobby-0/handshake".to_owned(), 2)]);
    }

    #[test]
    fn a_slow_disk_makes_intervals_longer_and_loses_nothing() {
        let (mut histograms, mut lobby, written) = setting();
        let begun = histograms.last_cut.instant;
        for _ in 0..4 {
            histograms.dump(&[]);
            answer(&mut histograms, &mut lobby);
        }
        let first: Vec<Interval> = written.try_iter().collect();
        // Owed, so that the next tick does it.
        histograms.tick(&[]);
        answer(&mut histograms, &mut lobby);
        let last = written.try_recv().unwrap();
        let counts = |interval: &Interval| interval.histograms[0].1.len();
        assert_eq!(first.iter().map(counts).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(counts(&last), 3);
        let lengths: Duration = first.iter().chain([&last]).map(|one| one.length).sum();
        assert_eq!(lengths, histograms.last_cut.instant.duration_since(begun));
        histograms.tick(&[]);
        assert!(lobby.try_recv().is_err(), "owed for ever");
    }

    #[test]
    fn memory_goes_round_and_is_empty_when_given_out() {
        let (mut histograms, mut lobby, _written) = setting();
        let mut seen = Vec::new();
        for _ in 0..3 {
            histograms.dump(&[]);
            let part = lobby.try_recv().unwrap();
            seen.push(std::ptr::from_ref(&*part));
            histograms.on_lobby((0, part), &[]);
        }
        assert!(seen.iter().all(|at| *at == seen[0]));
    }
}
