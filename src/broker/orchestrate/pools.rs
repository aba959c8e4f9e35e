//! Hosts that are somebody's, and hosts that are off.

use tokio::sync::oneshot;

use super::{ChannelNumber, Core, Done, Errand, Judged};
use crate::broker::start_command::StartCommand;
use crate::core::codes::{Code, Refusal};
use crate::core::ids::{GatewayId, HostId};
use crate::core::placement::{Assigning, AssignmentKey, Start, Wish};

/// Requests that may wait for the store at once.
const WAITERS_MAX: usize = 1_024;

/// Who waits until the store is done with an assignment.
#[derive(Debug)]
pub(super) enum Waiter {
    User { asked_by: GatewayId, channel: ChannelNumber, judged: Box<Judged> },
    Operator(oneshot::Sender<Result<(), String>>),
}

impl Core {
    /// Gives a user of a personal pool a host of their own, where that is
    /// automatic. The request comes back when it can be placed at once; else it
    /// waits for the store, or was refused.
    pub(super) fn see_to_own_host(
        &mut self,
        asked_by: &GatewayId,
        channel: ChannelNumber,
        judged: Judged,
    ) -> Option<Judged> {
        let (wish, request) = (judged.wish(), judged.request);
        let refusal = match self.table.assign(&wish, self.now_ms) {
            Ok(Assigning::Settled) => return Some(judged),
            Err(code) => self.without_a_host(&wish, code),
            Ok(assigning) => {
                if let Assigning::Store(host) = assigning {
                    tracing::info!(step = 9, user = %wish.user, pool = %wish.pool, %host, "Assigned a host");
                    self.errands.push(Errand::StoreAssignment {
                        key: wish.key(),
                        host,
                        undo: false,
                    });
                }
                if self.waiters.values().map(Vec::len).sum::<usize>() < WAITERS_MAX {
                    let (asked_by, judged) = (asked_by.clone(), Box::new(judged));
                    let waiter = Waiter::User { asked_by, channel, judged };
                    self.waiters.entry(wish.key()).or_default().push(waiter);
                    return None;
                }
                Code::BrokerOverloaded.into()
            }
        };
        self.refuse_place(asked_by, request, wish.session, refusal);
        None
    }

    /// The operator gives a host to a user or takes it away. Answered when it
    /// is stored.
    pub(super) fn assign(
        &mut self,
        key: AssignmentKey,
        host: HostId,
        undo: bool,
        done: oneshot::Sender<Result<(), String>>,
    ) {
        let decided = if undo {
            self.table.unassign(&key, &host)
        } else {
            self.table.assign_directly(key.clone(), host.clone())
        };
        match decided {
            Ok(()) => {
                self.errands.push(Errand::StoreAssignment { key: key.clone(), host, undo });
                self.waiters.entry(key).or_default().push(Waiter::Operator(done));
            }
            Err(error) => {
                let _nobody_waits = done.send(Err(error.to_string()));
            }
        }
    }

    pub(super) fn errand_done(&mut self, done: Done) {
        match done {
            Done::AssignmentStored { key, outcome } => self.assignment_stored(&key, &outcome),
            Done::HostStarted { host, outcome } => {
                self.start_commands.remove(&host);
                match outcome {
                    Ok(()) => tracing::info!(%host, "A host's start command is done"),
                    Err(error) => {
                        tracing::error!(%host, error, "Cannot start a host");
                        self.table.start_failed(&host, self.now_ms);
                    }
                }
            }
        }
    }

    fn assignment_stored(&mut self, key: &AssignmentKey, outcome: &Result<(), String>) {
        let AssignmentKey { pool, user } = key;
        match outcome {
            Ok(()) => tracing::info!(%pool, user, "Stored whose a host is"),
            Err(error) => tracing::error!(%pool, user, error, "Cannot store whose a host is"),
        }
        self.table.assignment_stored(key, outcome.is_ok());
        for waiter in self.waiters.remove(key).unwrap_or_default() {
            match waiter {
                Waiter::Operator(done) => {
                    let _nobody_waits = done.send(outcome.clone());
                }
                Waiter::User { asked_by, channel, judged } => {
                    let still_asks =
                        self.gateways.get(&asked_by).is_some_and(|known| known.channel == channel);
                    if !still_asks {
                        continue;
                    }
                    if let Err(error) = outcome {
                        let refusal = Refusal::with_detail(Code::Internal, error);
                        self.refuse_place(&asked_by, judged.request, judged.session, refusal);
                    } else {
                        self.place(&asked_by, channel, *judged);
                    }
                }
            }
        }
    }

    /// Nobody can take this user. A host that is off may change that: it is
    /// started, and the user told to come again.
    pub(super) fn without_a_host(&mut self, wish: &Wish, code: Code) -> Refusal {
        if let Some(refusal) = self.start_host(wish, code) {
            return refusal;
        }
        let refusal = Refusal::with_detail(code, format!("pool {}", wish.pool));
        if code == Code::PoolFull {
            Refusal { retry_after_ms: Some(self.limits.reservation_ms), ..refusal }
        } else {
            refusal
        }
    }

    fn start_host(&mut self, wish: &Wish, code: Code) -> Option<Refusal> {
        let may_help = matches!(
            code,
            Code::NoHostAvailable
                | Code::PoolFull
                | Code::HostDraining
                | Code::HostUnhealthy
                | Code::AssignedHostAway
        );
        let pool = self.pools.get(&wish.pool).filter(|_| may_help)?;
        let may_begin = self.start_commands.len() < self.limits.start_commands_max;
        let detail = match self.table.host_to_start(wish, may_begin, self.now_ms)? {
            Start::Underway(host) => format!("{host} was told to start"),
            Start::Later => "other hosts are being started first".into(),
            Start::Begin(host) => {
                let detail = format!("{host} is told to start");
                // One of an earlier start may still run.
                if self.start_commands.insert(host.clone()) {
                    tracing::info!(step = 9, user = %wish.user, %host, "Starting a host");
                    let command = StartCommand {
                        line: pool.start_command_for(host.as_str(), &wish.user),
                        timeout_ms: pool.start_timeout_ms,
                    };
                    self.errands.push(Errand::StartHost { host, command });
                }
                detail
            }
        };
        let retry_after_ms = Some(pool.start_retry_ms);
        Some(Refusal { retry_after_ms, ..Refusal::with_detail(Code::HostStarting, detail) })
    }
}
