//! Measures the way to each gateway (before step 7), so that the entry gateway
//! need not guess it from its own.
//!
//! Nobody waits long for that: a survey is given [`PATIENCE`], and sessions go
//! with what there is by then. What comes later serves the next one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};

use super::token::TokenSource;
use crate::core::ids::GatewayId;
use crate::dial::http::HttpsClient;
use crate::dial::probe::shortest_round_trip;
use crate::dial::{Dialer, Endpoint, Purpose};
use crate::wire::arm::{GATEWAYS_PATH, GatewayList, LISTED_MAX, ListedGateway, RttSample};

/// As long as sessions wait for a survey from its beginning; those that are
/// opened later do not wait at all.
const PATIENCE: Duration = Duration::from_millis(300);
/// A measurement is good for this long: gateways believe it a little longer.
const GOOD_FOR: Duration = Duration::from_secs(240);
/// What brought nothing, this long: an older entry gateway, or one that was not
/// reached.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// Gateways that are measured at once. More would measure each other.
const AT_ONCE: usize = 8;
/// A gateway that takes longer to reach is not reached.
const REACH_TIMEOUT: Duration = Duration::from_secs(3);

/// The ways to the gateways, as far as they are known. Ends what is under way
/// when it is dropped.
#[derive(Debug)]
pub struct Ways {
    surveyor: Surveyor,
    last: Mutex<Option<Survey>>,
}

/// The last survey: under way, or over.
#[derive(Debug)]
struct Survey {
    task: JoinHandle<()>,
    /// Turns true when it is over.
    done: watch::Receiver<bool>,
    since: Instant,
}

/// What goes on with a survey.
#[derive(Clone, Debug)]
struct Surveyor {
    entry: Endpoint,
    token: TokenSource,
    https: HttpsClient,
    dialer: Dialer,
    seen: Arc<Mutex<HashMap<GatewayId, Seen>>>,
}

/// How a gateway was found: a round trip, or not at all.
#[derive(Clone, Copy, Debug)]
struct Seen {
    rtt_us: Option<u64>,
    at: Instant,
}

/// What the entry gateway is told.
#[derive(Clone, Debug, Default)]
pub struct Sightings {
    pub samples: Vec<RttSample>,
    pub unreachable: Vec<GatewayId>,
}

impl Ways {
    #[must_use]
    pub fn new(entry: Endpoint, token: TokenSource, https: HttpsClient, dialer: Dialer) -> Self {
        let surveyor = Surveyor { entry, token, https, dialer, seen: Arc::default() };
        Self { surveyor, last: Mutex::default() }
    }

    /// What is known, after a survey if it is time for one.
    pub async fn look(&self) -> Sightings {
        let (mut done, since) = self.survey_if_due();
        let _too_late = timeout_at(since + PATIENCE, done.wait_for(|done| *done)).await;
        self.sightings()
    }

    /// A session could not get to a gateway: the next does not try it first.
    pub fn note_unreachable(&self, gateway: &GatewayId) {
        self.surveyor.note(gateway.clone(), None);
    }

    /// Begins a survey when what is known is too old. Returns how to wait for
    /// the last one, and since when it goes on.
    fn survey_if_due(&self) -> (watch::Receiver<bool>, Instant) {
        let mut last = lock(&self.last);
        let good_for = if lock(&self.surveyor.seen).is_empty() { RETRY_AFTER } else { GOOD_FOR };
        if let Some(survey) = &*last
            && (!survey.task.is_finished() || survey.since.elapsed() < good_for)
        {
            return (survey.done.clone(), survey.since);
        }
        let (tell, done) = watch::channel(false);
        let surveyor = self.surveyor.clone();
        let task = tokio::spawn(async move {
            surveyor.survey().await;
            tell.send_replace(true);
        });
        let since = Instant::now();
        *last = Some(Survey { task, done: done.clone(), since });
        (done, since)
    }

    fn sightings(&self) -> Sightings {
        let mut sightings = Sightings::default();
        for (gateway, seen) in lock(&self.surveyor.seen).iter() {
            let age = seen.at.elapsed();
            match seen.rtt_us {
                None if age <= RETRY_AFTER => sightings.unreachable.push(gateway.clone()),
                None => {}
                Some(_) if age > GOOD_FOR => {}
                Some(rtt_us) => sightings.samples.push(RttSample {
                    gateway: gateway.clone(),
                    rtt_us,
                    age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
                }),
            }
        }
        sightings
    }
}

impl Drop for Ways {
    fn drop(&mut self) {
        if let Some(survey) = lock(&self.last).take() {
            survey.task.abort();
        }
    }
}

impl Surveyor {
    /// Asks the entry gateway for the others, and measures all of them.
    async fn survey(&self) {
        let url = self.entry.url(GATEWAYS_PATH);
        let Ok(token) = self.token.current().await else {
            return; // As below.
        };
        let asked: Result<GatewayList, _> =
            self.https.get_json(Purpose::CLIENT_LEG, &url, Some(token.expose())).await;
        let mut gateways = match asked {
            Ok(list) => list.gateways,
            Err(error) => {
                // What is wrong with the token or the gateway, step 7 will say.
                tracing::debug!(%error, "The gateways to measure are not known");
                return;
            }
        };
        gateways.truncate(LISTED_MAX);
        lock(&self.seen).retain(|seen, _| gateways.iter().any(|one| one.gateway == *seen));
        if gateways.len() < 2 {
            return; // Nothing to choose from.
        }
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let mut measuring = JoinSet::new();
        for gateway in gateways {
            let (surveyor, turns) = (self.clone(), Arc::clone(&turns));
            measuring.spawn(async move {
                let Ok(_turn) = turns.acquire().await else { return };
                surveyor.measure(gateway).await;
            });
        }
        while measuring.join_next().await.is_some() {}
    }

    async fn measure(&self, listed: ListedGateway) {
        let Ok(endpoint) = listed.url.parse::<Endpoint>() else { return };
        let measured = async {
            let mut stream = self.dialer.connect(&endpoint, Purpose::CLIENT_LEG).await.ok()?;
            shortest_round_trip(&mut stream, &endpoint).await
        };
        let rtt_us = timeout(REACH_TIMEOUT, measured).await.ok().flatten();
        tracing::debug!(step = 7, gateway = %listed.gateway, rtt_us, "Measured the way to a gateway");
        self.note(listed.gateway, rtt_us);
    }

    fn note(&self, gateway: GatewayId, rtt_us: Option<u64>) {
        lock(&self.seen).insert(gateway, Seen { rtt_us, at: Instant::now() });
    }
}

/// A lock whose holder panicked guards whole entries all the same.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "measure_tests.rs"]
mod tests;
