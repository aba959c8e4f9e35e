//! What the broker answers those who administer it, on its admin socket and
//! over HTTPS.

use std::fmt;

use serde_json::json;
use tokio::sync::oneshot;

use super::enroll::NewToken;
use super::orchestrate::Command;
use super::store::StoreError;
use super::{Shared, enroll, revoke};
use crate::core::audit::Action;
use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::core::ids::{HostId, Label, PoolId};
use crate::core::placement::AssignmentKey;
use crate::wire::admin::{
    AdminRequest, AdminResponse, AssignmentView, BrokerRequest, StatusView, TokenListing, TokenView,
};
use crate::wire::enroll::MachineRole;

const USER_CHARS_MAX: usize = 256;
/// A token that lives longer is a password.
const TOKEN_TTL_MS_MAX: u64 = 30 * 24 * 3_600_000;
/// Records in one answer. None is longer than 5 KB.
const AUDIT_RECORDS_MAX: u32 = 1_000;

/// Who asks, for logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// An account of this machine, on the socket.
    Local { uid: u32 },
    /// The holder of an admin token, over HTTPS.
    Token { name: String },
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid } => write!(f, "uid {uid}"),
            Self::Token { name } => write!(f, "token {name}"),
        }
    }
}

pub async fn answer(shared: &Shared, by: &Operator, request: BrokerRequest) -> AdminResponse {
    if only_looks(&request) {
        tracing::debug!(%by, ?request, "An operator looks");
    } else {
        tracing::info!(%by, ?request, "An operator acts");
        shared.audit.record(Action::OperatorAsked, by, &json!(request));
    }
    let answered = match request {
        BrokerRequest::DrainLabel { label, undo } => drain_label(shared, label, !undo).await,
        BrokerRequest::Assign { pool, user, host, undo } => {
            Ok(assign(shared, AssignmentKey { pool, user }, host, undo).await)
        }
        BrokerRequest::Assignments => assignments(shared).await,
        BrokerRequest::Revoke { role, name, undo } => {
            revoke::machine(shared, role, name, undo).await
        }
        BrokerRequest::Disconnect { whom } => revoke::disconnect(shared, whom).await,
        BrokerRequest::RotateKeys => Ok(revoke::rotate_keys(shared).await),
        BrokerRequest::Audit { after, last, since, limit } => {
            audit(shared, after, last, since, limit).await
        }
        BrokerRequest::Common(request) => answer_common(shared, request).await,
    };
    answered.unwrap_or_else(|error| {
        tracing::error!(%error, "The database failed");
        AdminResponse::Refused { refusal: Refusal::with_detail(Code::Internal, error) }
    })
}

/// Requests that change nothing. They come every few seconds from whoever
/// watches.
const fn only_looks(request: &BrokerRequest) -> bool {
    use AdminRequest::{Explain, Gateways, Histograms, Hosts, Sessions, Status, Tokens};
    matches!(
        request,
        BrokerRequest::Common(
            Status | Hosts | Gateways | Sessions | Explain { .. } | Tokens | Histograms
        ) | BrokerRequest::Assignments
            | BrokerRequest::Audit { .. }
    )
}

async fn answer_common(
    shared: &Shared,
    request: AdminRequest,
) -> Result<AdminResponse, StoreError> {
    match request {
        AdminRequest::Status => Ok(AdminResponse::Status(status(shared).await)),
        AdminRequest::Hosts => {
            Ok(AdminResponse::Hosts { hosts: shared.core.snapshot().await.hosts })
        }
        AdminRequest::Gateways => {
            Ok(AdminResponse::Gateways { gateways: shared.core.snapshot().await.gateways })
        }
        AdminRequest::Sessions => {
            Ok(AdminResponse::Sessions { sessions: shared.core.snapshot().await.sessions })
        }
        AdminRequest::Explain { session } => {
            let (sender, explained) = oneshot::channel();
            shared.core.send(Command::Explain { session, answer: sender }).await;
            Ok(match explained.await.ok().flatten() {
                Some((session, explain)) => AdminResponse::Explained { session, explain },
                None => AdminResponse::Refused { refusal: Code::SessionUnknown.into() },
            })
        }
        AdminRequest::Drain { host, undo } => drain(shared, host, !undo).await,
        AdminRequest::CreateToken { role, pool, ttl_ms, uses, server_names } => {
            create_token(shared, NewToken { role, pool, ttl_ms, uses, server_names }).await
        }
        AdminRequest::Tokens => tokens(shared).await,
        AdminRequest::Histograms => Ok(AdminResponse::Invalid {
            problem: "ask a gateway's socket: the broker relays nothing".into(),
        }),
    }
}

async fn status(shared: &Shared) -> StatusView {
    let snapshot = shared.core.snapshot().await;
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    StatusView {
        role: "broker".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        address: shared.address.to_string(),
        public_url: shared.config().public_url.clone(),
        started_at: shared.started_at,
        hosts_connected: count(snapshot.hosts.iter().filter(|host| host.connected).count()),
        gateways_connected: count(snapshot.gateways.len()),
        sessions: count(snapshot.sessions.len()),
        audit: shared.audit.view(shared.store.audit_head().await.ok()),
        config: shared.config_status.view(),
    }
}

async fn drain(shared: &Shared, host: HostId, draining: bool) -> Result<AdminResponse, StoreError> {
    if shared.store.machine(MachineRole::Agent, host.to_string()).await?.is_none() {
        let problem = format!("no session host {host} is enrolled; see: ringway ctl hosts");
        return Ok(AdminResponse::Invalid { problem });
    }
    shared.store.set_drained(host.clone(), draining, UnixMillis::now()).await?;
    let (done, is_done) = oneshot::channel();
    shared.core.send(Command::Drain { host, draining, done }).await;
    let _stopping = is_done.await;
    Ok(AdminResponse::Done)
}

async fn drain_label(
    shared: &Shared,
    label: Label,
    draining: bool,
) -> Result<AdminResponse, StoreError> {
    shared.store.set_label_drained(label.clone(), draining, UnixMillis::now()).await?;
    let (done, is_done) = oneshot::channel();
    shared.core.send(Command::DrainLabel { label, draining, done }).await;
    let _stopping = is_done.await;
    Ok(AdminResponse::Done)
}

async fn assign(shared: &Shared, key: AssignmentKey, host: HostId, undo: bool) -> AdminResponse {
    let length = key.user.chars().count();
    if length == 0 || length > USER_CHARS_MAX || key.user.chars().any(char::is_control) {
        let problem = format!("a user name has 1 to {USER_CHARS_MAX} characters that can be seen");
        return AdminResponse::Invalid { problem };
    }
    let (done, is_done) = oneshot::channel();
    shared.core.send(Command::Assign { key, host, undo, done }).await;
    match is_done.await {
        Ok(Ok(())) => AdminResponse::Done,
        Ok(Err(problem)) => AdminResponse::Invalid { problem },
        Err(_stopping) => AdminResponse::Refused { refusal: Code::BrokerUnreachable.into() },
    }
}

async fn assignments(shared: &Shared) -> Result<AdminResponse, StoreError> {
    let stored = shared.store.assignments().await?;
    let views = stored.into_iter().map(|(AssignmentKey { pool, user }, host)| AssignmentView {
        pool,
        user,
        host,
    });
    Ok(AdminResponse::Assignments { assignments: views.collect() })
}

/// The first records behind `after`, or the `last` ones.
async fn audit(
    shared: &Shared,
    after: u64,
    last: Option<u32>,
    since: Option<UnixMillis>,
    limit: u32,
) -> Result<AdminResponse, StoreError> {
    let after = match last {
        Some(last) => {
            let head = shared.store.audit_head().await?;
            head.number.saturating_sub(u64::from(last))
        }
        None => after,
    };
    let limit = limit.min(AUDIT_RECORDS_MAX);
    let since = since.unwrap_or(UnixMillis(0));
    let records = shared.store.audit_after(after, since, limit).await?;
    Ok(AdminResponse::Audit { records })
}

async fn create_token(shared: &Shared, new: NewToken) -> Result<AdminResponse, StoreError> {
    if let Some(problem) = token_problem(shared, &new) {
        return Ok(AdminResponse::Invalid { problem });
    }
    let now = UnixMillis::now();
    let NewToken { role, pool, ttl_ms, uses, .. } = new.clone();
    let token = enroll::create_token(&shared.store, shared.authority.pin(), new, now).await?;
    Ok(AdminResponse::Token(TokenView {
        token: token.text().expose().to_owned(),
        role,
        pool,
        expires_at: now.plus_ms(ttl_ms),
        uses,
        broker_url: shared.config().public_url.clone(),
    }))
}

pub(super) fn token_problem(shared: &Shared, new: &NewToken) -> Option<String> {
    let NewToken { role, pool, ttl_ms, uses, server_names } = new;
    let declared =
        |pool: &PoolId| shared.config().pools.iter().any(|declared| declared.name == *pool);
    if *role == MachineRole::Agent && !server_names.is_empty() {
        return Some("only a gateway serves under names: --role gateway".into());
    }
    if let Err(problem) = enroll::check_server_names(server_names) {
        return Some(problem);
    }
    match (role, pool) {
        (MachineRole::Agent, None) => return Some("a session host needs a pool: --pool".into()),
        (MachineRole::Gateway, Some(_)) => return Some("a gateway is in no pool".into()),
        (MachineRole::Agent, Some(pool)) if !declared(pool) => {
            return Some(format!("pool {pool} is not declared in the broker's configuration"));
        }
        _ => {}
    }
    if *ttl_ms == 0 || *ttl_ms > TOKEN_TTL_MS_MAX {
        return Some("a token lives up to 30 days: --ttl 1h".into());
    }
    (*uses == 0).then(|| "a token needs at least one use: --uses 1".into())
}

async fn tokens(shared: &Shared) -> Result<AdminResponse, StoreError> {
    let tokens = shared.store.enrol_tokens(UnixMillis::now()).await?;
    let listing = tokens.into_iter().map(|token| TokenListing {
        id: hex::encode(token.hash.get(..4).unwrap_or_default()),
        role: token.role,
        pool: token.pool,
        expires_at: token.expires_at,
        uses_left: token.uses_left,
        server_names: token.server_names,
    });
    Ok(AdminResponse::Tokens { tokens: listing.collect() })
}
