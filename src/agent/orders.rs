//! One order from the broker, from the target's door to the last byte
//! (steps 9 to 11 as the host sees them).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::front::{self, Begun};
use super::health::Findings;
use super::seats::{Seat, Seats};
use super::target::{Target, TargetStream};
use crate::channel::client::ChannelHandle;
use crate::core::codes::{Code, Refusal};
use crate::core::tickets::Role;
use crate::dial::Dialer;
use crate::dial::pipe::{PipeLimits, PipeReport, pipe};
use crate::dial::relay::{RelayLeg, open_leg};
use crate::observe::timeline::Teller;
use crate::wire::channel::{AgentToBroker, Order};

/// Part of the time for the answer that is kept for its way to the broker.
const ANSWER_MARGIN_MS: u64 = 100;

/// What every order needs.
pub(super) struct Desk {
    pub(super) seats: Arc<Seats>,
    pub(super) target: Arc<dyn Target>,
    /// What the RDP server was found to be like.
    pub(super) findings: Findings,
    pub(super) first_pdu_timeout_ms: u64,
    pub(super) target_timeout_ms: u64,
    pub(super) dialer: Dialer,
    pub(super) pipe: PipeLimits,
    pub(super) channel: ChannelHandle<AgentToBroker>,
    pub(super) teller: Teller,
}

/// The broker waits no longer for the host's word.
fn answer_time(order: &Order) -> Duration {
    Duration::from_millis(order.answer_within_ms.saturating_sub(ANSWER_MARGIN_MS).max(1))
}

impl Desk {
    /// Carries out one order.
    pub(super) async fn serve(self: Arc<Self>, order: Order) {
        let session = order.session;
        let answer_time = answer_time(&order);
        let answer_by = Instant::now() + answer_time;
        let seat = match self.seats.take_within(session, answer_time / 2).await {
            Ok(seat) => seat,
            Err(no_seat) => {
                tracing::warn!(step = 9, %session, ?no_seat, "Refused an order");
                if let Some(code) = no_seat.code() {
                    self.say(AgentToBroker::OrderRefused { session, refusal: code.into() });
                }
                return;
            }
        };
        // An order that is taken back is not answered: the broker has let go.
        let target = tokio::select! {
            target = self.reach_target(answer_by) => target,
            _ = seat.told_to_end() => return,
        };
        let target = match target {
            Ok(target) => target,
            Err(refusal) => {
                tracing::warn!(step = 9, %session, %refusal, "Refused an order");
                drop(seat);
                self.say(AgentToBroker::OrderRefused { session, refusal });
                return;
            }
        };
        seat.mark_accepted();
        self.say(AgentToBroker::OrderAccepted { session });
        self.teller.tell(9, Some(session), "the target answers, the order is accepted");

        let leg = tokio::select! {
            leg = self.join_gateway(&order) => leg,
            why = seat.told_to_end() => Err(why),
        };
        let leg = match leg {
            Ok(leg) => leg,
            Err(refusal) => {
                tracing::warn!(step = 10, %session, gateway = %order.gateway, %refusal, "Did not join the gateway");
                drop(seat);
                self.say(AgentToBroker::OrderFailed { session, refusal });
                return;
            }
        };
        self.say(AgentToBroker::SessionStarted { session });
        self.teller.tell(10, Some(session), format!("joined the client at {}", order.gateway));
        self.carry(&order, seat, leg, target).await;
    }

    async fn reach_target(&self, answer_by: Instant) -> Result<Box<dyn TargetStream>, Refusal> {
        let broker_waits = answer_by.saturating_duration_since(Instant::now());
        let limit = Duration::from_millis(self.target_timeout_ms).min(broker_waits);
        let refuse = |detail: String| Refusal::with_detail(Code::HostRefused, detail);
        match timeout(limit, self.target.connect()).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(refuse(format!("target: {error}"))),
            Err(_elapsed) => {
                Err(refuse(format!("target: no answer within {} ms", limit.as_millis())))
            }
        }
    }

    async fn join_gateway(&self, order: &Order) -> Result<RelayLeg, Refusal> {
        open_leg(&self.dialer, &order.gateway_url, Role::Host, order.ticket.expose())
            .await
            .map_err(|error| error.to_refusal(Code::HostDialFailed))
    }

    async fn carry(
        &self,
        order: &Order,
        seat: Seat,
        mut leg: RelayLeg,
        mut target: Box<dyn TargetStream>,
    ) {
        let (session, gateway) = (order.session, &order.gateway);
        tracing::info!(step = 11, %session, %gateway, "Carrying a session");
        let since = Instant::now();
        let within = Duration::from_millis(self.first_pdu_timeout_ms);
        let rdsaad = self.findings.rdsaad();
        let begun = tokio::select! {
            begun = front::begin(&mut leg, &mut target, rdsaad, within) => begun,
            // The pipe is told at once, and tells both sides.
            _ = seat.told_to_end() => Ok(Begun::Yes { bytes_up: 0, bytes_down: 0 }),
        };
        let (first_up, first_down) = match begun {
            Ok(Begun::Yes { bytes_up, bytes_down }) => (bytes_up, bytes_down),
            Ok(Begun::Declined) => {
                drop(seat);
                self.say(AgentToBroker::SessionEnded { session, bytes_up: 0, bytes_down: 0 });
                tracing::info!(step = 12, %session, "A client was sent away to offer another security");
                return;
            }
            // A stream that failed fails again.
            Err(_) => (0, 0),
        };
        let mut told = None;
        let stop = async { told = Some(seat.told_to_end().await) };
        let report = pipe(leg, target, self.pipe, stop).await;
        let PipeReport { bytes_a_to_b, bytes_b_to_a, a_to_b, b_to_a } = report;
        let (bytes_up, bytes_down) = (bytes_a_to_b + first_up, bytes_b_to_a + first_down);
        // Out of the table before the broker hears it: a hello in between must
        // not name a session that is over.
        drop(seat);
        self.say(AgentToBroker::SessionEnded { session, bytes_up, bytes_down });
        tracing::info!(
            step = 11,
            %session,
            %gateway,
            bytes_up,
            bytes_down,
            duration_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
            from_gateway = ?a_to_b,
            from_target = ?b_to_a,
            told_to_end = told.map(|why| why.code.facts().name),
            "A session is over"
        );
    }

    /// Without a channel nothing is said: the next hello says what is live, and
    /// the broker has given up on the rest.
    pub(super) fn say(&self, message: AgentToBroker) {
        if self.channel.send(message).is_err() {
            tracing::debug!("No channel to tell the broker by");
        }
    }
}
