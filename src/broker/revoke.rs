//! What an administrator takes away: sessions, machines' right to connect, the
//! ticket key.

use serde_json::json;
use tokio::sync::oneshot;

use super::Shared;
use super::orchestrate::{COMES_BACK_WITHIN_MS, Command, Ended};
use super::store::StoreError;
use crate::core::audit::Action;
use crate::core::clock::UnixMillis;
use crate::wire::admin::{AdminResponse, Whom};
use crate::wire::enroll::MachineRole;

/// Ends sessions. When this returns, the gateways were told, it is recorded,
/// and a restart of the broker does not bring them back.
///
/// # Errors
/// When the database fails: the sessions have been told to end.
pub async fn disconnect(shared: &Shared, whom: Whom) -> Result<AdminResponse, StoreError> {
    let ended = end_sessions(shared, whom.clone(), false).await?;
    let detail = json!({ "whom": whom, "live": ended.live, "pending": ended.pending });
    shared.audit.record(Action::Disconnected, subject(&whom), &detail);
    let Ended { live, pending, of_unknown_users, .. } = ended;
    Ok(AdminResponse::Disconnected { live, pending, of_unknown_users })
}

/// Takes a machine's right to connect away and ends its sessions, or lets
/// another one enrol under its name.
///
/// # Errors
/// When the database fails.
pub async fn machine(
    shared: &Shared,
    role: MachineRole,
    name: String,
    undo: bool,
) -> Result<AdminResponse, StoreError> {
    let now = UnixMillis::now();
    if undo {
        if shared.store.forget(role, name.clone(), now).await? {
            tracing::info!(role = role.as_str(), %name, "A revoked machine may enrol again");
            return Ok(AdminResponse::Done);
        }
    } else if shared.store.revoke(role, name.clone(), now).await? {
        tracing::warn!(role = role.as_str(), %name, "Revoked a machine");
        let whom = match role {
            MachineRole::Agent => name.parse().ok().map(|host| Whom::Host { host }),
            MachineRole::Gateway => name.parse().ok().map(|gateway| Whom::Gateway { gateway }),
        };
        let ended = match whom {
            Some(whom) => end_sessions(shared, whom, true).await?,
            None => Ended::default(),
        };
        let Ended { live, pending, .. } = ended;
        return Ok(AdminResponse::Disconnected { live, pending, of_unknown_users: 0 });
    }
    let state = if undo { "revoked" } else { "enrolled" };
    let problem = format!("no {} of that name is {state}", role.as_str());
    Ok(AdminResponse::Invalid { problem })
}

/// Publishes the next ticket key; it signs a moment later.
pub async fn rotate_keys(shared: &Shared) -> AdminResponse {
    let (order, answered) = oneshot::channel();
    let sent = shared.rotate_keys.send(order).await;
    let rotated = answered.await;
    match (sent, rotated) {
        (Ok(()), Ok(Ok(keys))) => AdminResponse::Keys(keys),
        (Ok(()), Ok(Err(problem))) => AdminResponse::Invalid { problem },
        _ => AdminResponse::Invalid { problem: "the broker is stopping".into() },
    }
}

async fn end_sessions(shared: &Shared, whom: Whom, expel: bool) -> Result<Ended, StoreError> {
    let (answer, answered) = oneshot::channel();
    shared.core.send(Command::Disconnect { whom, expel, answer }).await;
    let ended = answered.await.unwrap_or_default();
    let now = UnixMillis::now();
    let until = now.plus_ms(COMES_BACK_WITHIN_MS);
    shared.store.revoke_sessions(ended.sessions.clone(), until, now).await?;
    Ok(ended)
}

fn subject(whom: &Whom) -> String {
    match whom {
        Whom::User { user } => user.clone(),
        Whom::Host { host } => host.to_string(),
        Whom::Gateway { gateway } => gateway.to_string(),
        Whom::Session { session } => session.to_string(),
    }
}
