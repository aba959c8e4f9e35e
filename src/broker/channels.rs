//! `GET /channel/agent` and `/channel/gateway`: lets enrolled machines in and
//! carries their messages to the task that owns the state.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, State};
use axum::response::Response;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::ca::machine_identity;
use super::http::Refused;
use super::orchestrate::{ChannelNumber, Command, HostHello, Ownership};
use super::store::Machine;
use super::{Shared, place};
use crate::channel::pump::{self, Outbox, PumpEnd, PumpRules};
use crate::core::codes::{Code, Refusal};
use crate::core::ids::{GatewayId, HostId, PoolId, SessionId};
use crate::core::secret::Secret;
use crate::dial::endpoint::is_origin;
use crate::tls::listener::Peer;
use crate::wire::channel::{
    AgentToBroker, BrokerToAgent, BrokerToGateway, GatewayToBroker, MESSAGE_LENGTH_MAX,
    PlaceRequest, VERSION,
};
use crate::wire::enroll::MachineRole;

/// Decoded messages of one machine that wait for the owner task.
const INBOUND_QUEUE_MAX: usize = 64;
/// Placements of one gateway whose tokens are being judged.
const JUDGING_MAX: usize = 256;
/// Sessions that one gateway may say it relays.
const LIVE_SESSIONS_MAX: usize = 1_000_000;
const SOFTWARE_CHARS_MAX: usize = 64;
/// Of one session host.
const LABELS_MAX: usize = 32;
/// A gateway's URL.
const URL_BYTES_MAX: usize = 300;

pub async fn agent(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refused> {
    let machine = authorise(&shared, &peer, MachineRole::Agent).await?;
    let host: HostId = machine.name.parse().map_err(|_| Code::MachineUnknown)?;
    let pool = machine.pool.clone().ok_or(Code::MachineUnknown)?;
    let upgrade = limited(upgrade)?;
    Ok(upgrade.on_upgrade(move |socket| run_agent(shared, socket, machine, host, pool)))
}

pub async fn gateway(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refused> {
    let machine = authorise(&shared, &peer, MachineRole::Gateway).await?;
    let gateway: GatewayId = machine.name.parse().map_err(|_| Code::MachineUnknown)?;
    let upgrade = limited(upgrade)?;
    Ok(upgrade.on_upgrade(move |socket| run_gateway(shared, socket, machine, gateway)))
}

/// The certificate (TLS has verified that it is from our CA) must be for this
/// role, and its key the one that was enrolled last under that name.
async fn authorise(shared: &Shared, peer: &Peer, role: MachineRole) -> Result<Machine, Refusal> {
    let unknown = |why: &str| {
        tracing::warn!(address = %peer.address, role = role.as_str(), why, "Refused a channel");
        Refusal::with_detail(Code::MachineUnknown, why)
    };
    let certificate = peer.certificate.as_ref().ok_or_else(|| unknown("no certificate"))?;
    let identity = machine_identity(certificate)
        .ok()
        .flatten()
        .ok_or_else(|| unknown("the certificate names no machine"))?;
    if identity.role != role {
        return Err(unknown("the certificate is for another role"));
    }
    let machine = shared.store.machine(role, identity.name).await.map_err(|error| {
        tracing::error!(%error, "The database failed");
        Refusal::new(Code::Internal)
    })?;
    let machine = machine.ok_or_else(|| unknown("not enrolled here"))?;
    if machine.revoked {
        return Err(unknown("revoked"));
    }
    if machine.key_sha256 != identity.key_sha256 {
        return Err(unknown("enrolled again since, with another key"));
    }
    Ok(machine)
}

fn limited(
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<WebSocketUpgrade, Refusal> {
    let upgrade = upgrade
        .map_err(|rejection| Refusal::with_detail(Code::UpgradeRequired, rejection.body_text()))?;
    Ok(upgrade.max_message_size(MESSAGE_LENGTH_MAX).max_frame_size(MESSAGE_LENGTH_MAX))
}

async fn run_agent(
    shared: Arc<Shared>,
    socket: WebSocket,
    machine: Machine,
    host: HostId,
    pool: PoolId,
) {
    let (outbox, mut inbound, channel, pump) = start_pump(&shared, socket);
    match first(&shared, &mut inbound).await {
        Some(AgentToBroker::Hello { version, software, live, capacity, mut labels, checks }) => {
            if let Some(outbox) = accept_version::<BrokerToAgent>(outbox, version) {
                tracing::info!(%host, software = named(&software), "A session host said hello");
                labels.truncate(LABELS_MAX);
                let hello = Command::AgentConnected {
                    host: host.clone(),
                    pool,
                    channel,
                    outbox: outbox.clone(),
                    hello: HostHello { capacity, live, labels, checks },
                };
                shared.core.send(hello).await;
                close_if_expelled(&shared, &machine, &outbox).await;
                while let Some(message) = inbound.recv().await {
                    let command = Command::FromAgent { host: host.clone(), channel, message };
                    shared.core.send(command).await;
                }
                shared.core.send(Command::AgentLost { host: host.clone(), channel }).await;
            }
        }
        other => close_unexpected(&outbox, other.is_some()),
    }
    log_end(host.as_str(), pump.await);
}

async fn run_gateway(shared: Arc<Shared>, socket: WebSocket, machine: Machine, gateway: GatewayId) {
    let (outbox, mut inbound, channel, pump) = start_pump(&shared, socket);
    match first(&shared, &mut inbound).await {
        Some(GatewayToBroker::Hello { version, software, url, capacity, mut live, more }) => {
            if !is_gateway_url(&url) || !all_live(&shared, &mut inbound, &mut live, more).await {
                close_unexpected(&outbox, true);
            } else if let Some(outbox) = accept_version::<BrokerToGateway>(outbox, version) {
                tracing::info!(%gateway, software = named(&software), %url, "A gateway said hello");
                let hello = Command::GatewayConnected {
                    gateway: gateway.clone(),
                    channel,
                    outbox: outbox.clone(),
                    url,
                    capacity,
                    live,
                };
                shared.core.send(hello).await;
                close_if_expelled(&shared, &machine, &outbox).await;
                let judging = Arc::new(Semaphore::new(JUDGING_MAX));
                while let Some(message) = inbound.recv().await {
                    match message {
                        GatewayToBroker::Place(place) => {
                            judge_aside(&shared, &judging, &outbox, &gateway, channel, place);
                        }
                        GatewayToBroker::CheckToken { request, bearer, session } => {
                            let whose = session.map(|session| (gateway.clone(), session));
                            check_aside(&shared, &judging, &outbox, (request, bearer), whose);
                        }
                        message => {
                            let gateway = gateway.clone();
                            let command = Command::FromGateway { gateway, channel, message };
                            shared.core.send(command).await;
                        }
                    }
                }
                shared.core.send(Command::GatewayLost { gateway: gateway.clone(), channel }).await;
            }
        }
        other => close_unexpected(&outbox, other.is_some()),
    }
    log_end(gateway.as_str(), pump.await);
}

/// A token may have to wait for the identity provider: not on the channel's
/// own task, or every other message would wait with it.
fn judge_aside(
    shared: &Arc<Shared>,
    judging: &Arc<Semaphore>,
    outbox: &Outbox<BrokerToGateway>,
    gateway: &GatewayId,
    channel: ChannelNumber,
    place: PlaceRequest,
) {
    let request = place.request;
    let Ok(permit) = Arc::clone(judging).try_acquire_owned() else {
        let refusal = Refusal::new(Code::BrokerOverloaded);
        outbox.post(BrokerToGateway::PlaceRefused { request, refusal });
        return;
    };
    let (shared, outbox, asked_by) = (Arc::clone(shared), outbox.clone(), gateway.clone());
    tokio::spawn(async move {
        let _permit = permit;
        let session = place.session;
        match place::judge(&shared, place).await {
            Ok(judged) => {
                shared.core.send(Command::Place { asked_by, channel, judged }).await;
            }
            Err(refusal) => {
                tracing::warn!(step = 8, %session, %refusal, "Refused a connection request");
                outbox.post(BrokerToGateway::PlaceRefused { request, refusal });
            }
        }
    });
}

/// The same for a user who only wants to know the gateways, or whose session it
/// must be.
fn check_aside(
    shared: &Arc<Shared>,
    judging: &Arc<Semaphore>,
    outbox: &Outbox<BrokerToGateway>,
    (request, bearer): (u64, Secret),
    whose: Option<(GatewayId, SessionId)>,
) {
    let Ok(permit) = Arc::clone(judging).try_acquire_owned() else {
        let refusal = Some(Refusal::new(Code::BrokerOverloaded));
        outbox.post(BrokerToGateway::TokenChecked { request, refusal });
        return;
    };
    let (shared, outbox) = (Arc::clone(shared), outbox.clone());
    tokio::spawn(async move {
        let _permit = permit;
        let refusal = check(&shared, &bearer, whose).await.err();
        outbox.post(BrokerToGateway::TokenChecked { request, refusal });
    });
}

async fn check(
    shared: &Shared,
    bearer: &Secret,
    whose: Option<(GatewayId, SessionId)>,
) -> Result<(), Refusal> {
    let user = shared.identity.judge(bearer.expose()).await?;
    let Some((gateway, session)) = whose else { return Ok(()) };
    let (answer, answered) = oneshot::channel();
    let ownership = Ownership { gateway, session, user: user.name, answer };
    shared.core.send(Command::IsOf(ownership)).await;
    let compared = answered.await.unwrap_or(Err(Code::Internal));
    Ok(compared.inspect_err(|code| {
        tracing::warn!(step = 11, %session, %code, "Refused to authenticate a session again");
    })?)
}

type Started<In, Out> =
    (Outbox<Out>, mpsc::Receiver<In>, ChannelNumber, tokio::task::JoinHandle<PumpEnd>);

fn start_pump<In, Out>(shared: &Shared, socket: WebSocket) -> Started<In, Out>
where
    In: serde::de::DeserializeOwned + Send + 'static,
    Out: serde::Serialize + Send + Sync + 'static,
{
    let limits = shared.config().limits;
    let rules = PumpRules {
        heartbeat_interval_ms: limits.heartbeat_interval_ms,
        heartbeat_timeout_ms: limits.heartbeat_timeout_ms,
        ..PumpRules::default()
    };
    let (outbox, queue) = pump::outbox(limits.channel_queue_max);
    let (sender, inbound) = mpsc::channel(INBOUND_QUEUE_MAX);
    let pump = tokio::spawn(pump::drive(socket, rules, queue, sender));
    (outbox, inbound, shared.next_channel_number(), pump)
}

/// The hello, if it comes in time.
async fn first<In>(shared: &Shared, inbound: &mut mpsc::Receiver<In>) -> Option<In> {
    let patience = Duration::from_millis(shared.config().limits.request_timeout_ms);
    timeout(patience, inbound.recv()).await.ok().flatten()
}

/// The rest of a long hello. Until all of it is here nobody knows which
/// sessions are over. `false` when it does not come as it should.
async fn all_live(
    shared: &Shared,
    inbound: &mut mpsc::Receiver<GatewayToBroker>,
    live: &mut Vec<SessionId>,
    mut more: bool,
) -> bool {
    while more {
        let Some(GatewayToBroker::AlsoLive { live: part, more: still_more }) =
            first(shared, inbound).await
        else {
            return false;
        };
        if part.is_empty() || live.len().saturating_add(part.len()) > LIVE_SESSIONS_MAX {
            return false;
        }
        live.extend(part);
        more = still_more;
    }
    true
}

fn accept_version<Out>(outbox: Outbox<Out>, version: u16) -> Option<Outbox<Out>> {
    if version == VERSION {
        return Some(outbox);
    }
    let detail = format!("the machine speaks version {version}, the broker {VERSION}");
    outbox.close(Refusal::with_detail(Code::ProtocolVersion, detail));
    None
}

/// Revoked or enrolled again while its channel was being opened: whoever did
/// that found no channel to close.
async fn close_if_expelled<Out>(shared: &Shared, machine: &Machine, outbox: &Outbox<Out>) {
    let now = shared.store.machine(machine.role, machine.name.clone()).await;
    if !now.is_ok_and(|now| now.as_ref() == Some(machine)) {
        outbox.close(Refusal::with_detail(Code::MachineUnknown, "not enrolled any more"));
    }
}

/// What a machine calls its program, for the log.
fn named(software: &str) -> String {
    software.chars().filter(|c| !c.is_control()).take(SOFTWARE_CHARS_MAX).collect()
}

fn close_unexpected<Out>(outbox: &Outbox<Out>, said_something: bool) {
    let (code, detail) = if said_something {
        (Code::RequestMalformed, "the first message must be a valid hello")
    } else {
        (Code::RequestTimeout, "no hello")
    };
    outbox.close(Refusal::with_detail(code, detail));
}

/// Where clients and hosts are sent.
fn is_gateway_url(url: &str) -> bool {
    url.len() <= URL_BYTES_MAX && is_origin(url)
}

fn log_end(machine: &str, end: Result<PumpEnd, tokio::task::JoinError>) {
    match end {
        Ok(end) => tracing::info!(%machine, %end, "A channel ended"),
        Err(error) => tracing::error!(%machine, %error, "A channel's task failed"),
    }
}
