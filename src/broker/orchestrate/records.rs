//! What `ringway ctl sessions` and `explain` show: each session's story, also
//! for a while after its end.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use serde_json::json;

use super::Judged;
use super::disconnect::DISCONNECTED;
use super::lately::Lately;
use crate::broker::audit::AuditLog;
use crate::broker::store::PlacedBefore;
use crate::core::audit::Action;
use crate::core::clock::UnixMillis;
use crate::core::codes::Code;
use crate::core::ids::{GatewayId, HostId, ResourceId, SessionId};
use crate::core::per_address::origin;
use crate::core::placement::Slot;
use crate::core::selection::Explain;
use crate::wire::admin::SessionView;

/// The end of a session as its host told it, until its gateway says more.
pub const HOST_ENDED: &str = "host_ended";
/// Sessions that are over and still explained.
const ENDED_MAX: usize = 4_096;

#[derive(Debug)]
pub(super) struct Records {
    audit: AuditLog,
    by_session: HashMap<SessionId, Record>,
    ended: VecDeque<SessionId>,
    /// At which gateway each user's session of a resource is: who returns stays
    /// there if that costs little (step 7).
    homes: Lately<Whose, GatewayId>,
    /// At which host that of one client is, live or not yet.
    seats: Lately<(Whose, IpAddr), HostId>,
}

/// User and resource.
type Whose = (String, String);

#[derive(Debug)]
struct Record {
    view: SessionView,
    explain: Explain,
}

impl Records {
    pub(super) fn new(audit: AuditLog) -> Self {
        let (by_session, ended) = (HashMap::new(), VecDeque::new());
        Self { audit, by_session, ended, homes: Lately::default(), seats: Lately::default() }
    }

    pub(super) fn placed(&mut self, judged: Judged, host: HostId) {
        let detail = json!({
            "user": judged.user,
            "resource": judged.resource,
            "client": judged.client_address,
            "host": host,
            "gateway": judged.gateway,
        });
        self.audit.record(Action::Placed, judged.session, &detail);
        if let Some(client) = client_of(&judged.client_address) {
            let whose = (judged.user.clone(), judged.resource.to_string());
            self.seats.enter((whose, client), judged.session, host.clone());
        }
        let view = SessionView {
            user: Some(judged.user),
            resource: Some(judged.resource.to_string()),
            client_address: Some(judged.client_address),
            host: Some(host),
            gateway: Some(judged.gateway),
            placed_at: Some(UnixMillis::now()),
            ..blank(judged.session)
        };
        self.by_session.insert(judged.session, Record { view, explain: judged.explain });
    }

    pub(super) fn refused(
        &self,
        session: SessionId,
        user: &str,
        resource: &ResourceId,
        code: Code,
    ) {
        let detail = json!({ "user": user, "resource": resource, "code": code });
        self.audit.record(Action::PlaceRefused, session, &detail);
    }

    /// An earlier run of the broker placed it.
    pub(super) fn adopted(&mut self, placed: PlacedBefore) {
        self.by_session.entry(placed.session).or_insert_with(|| Record {
            view: SessionView {
                user: Some(placed.user),
                resource: placed.resource,
                ..blank(placed.session)
            },
            explain: Explain::default(),
        });
    }

    pub(super) fn started(&mut self, session: SessionId, gateway: &GatewayId) {
        self.audit.record(Action::Connected, session, &json!({ "gateway": gateway }));
        let Some(record) = self.by_session.get_mut(&session) else { return };
        if record.view.started_at.is_some() {
            return;
        }
        record.view.started_at = Some(UnixMillis::now());
        if let Some(gateway) = record.view.gateway.clone()
            && let Some(whose) = whose(&record.view)
        {
            self.homes.enter(whose, session, gateway);
        }
    }

    /// The gateway at which this user's session is, or was a moment ago.
    pub(super) fn home(&self, user: &str, resource: &ResourceId) -> Option<&GatewayId> {
        let whose = (user.to_owned(), resource.to_string());
        self.homes.of(&whose, UnixMillis::now()).map(|(_, gateway)| gateway)
    }

    /// The session of this resource that the same client has, or had a moment
    /// ago, and its host.
    pub(super) fn former(&self, judged: &Judged) -> Option<(SessionId, &HostId)> {
        let whose = (judged.user.clone(), judged.resource.to_string());
        self.seats.of(&(whose, client_of(&judged.client_address)?), UnixMillis::now())
    }

    /// Only the first end counts.
    pub(super) fn ended(&mut self, session: SessionId, why: &str, bytes: Option<(u64, u64)>) {
        let over = |record: &Record| record.view.ended_at.is_some();
        if self.by_session.get(&session).is_some_and(over) {
            return;
        }
        self.close(session, why, bytes);
        let Some(record) = self.by_session.get_mut(&session) else { return };
        let now = UnixMillis::now();
        record.view.ended_at = Some(now);
        record.view.end = Some(why.to_owned());
        (record.view.bytes_up, record.view.bytes_down) = bytes.unwrap_or_default();
        if let Some(whose) = whose(&record.view) {
            self.homes.leave(&whose, session, now);
            if let Some(client) = record.view.client_address.as_deref().and_then(client_of) {
                self.seats.leave(&(whose, client), session, now);
            }
        }
        self.ended.push_back(session);
        if self.ended.len() > ENDED_MAX
            && let Some(oldest) = self.ended.pop_front()
        {
            self.by_session.remove(&oldest);
        }
    }

    /// The gateway's own account of a session of which the host had told the
    /// end first, or that it was told to end: the gateway knows why, or how
    /// much it carried.
    pub(super) fn settled(
        &mut self,
        session: SessionId,
        gateway: &GatewayId,
        why: &str,
        bytes: (u64, u64),
    ) {
        if let Some(record) = self.by_session.get_mut(&session)
            && record.view.gateway.as_ref() == Some(gateway)
            && matches!(record.view.end.as_deref(), Some(HOST_ENDED | DISCONNECTED))
        {
            record.view.end = Some(why.to_owned());
            (record.view.bytes_up, record.view.bytes_down) = bytes;
            self.close(session, why, Some(bytes));
        }
    }

    fn close(&self, session: SessionId, why: &str, bytes: Option<(u64, u64)>) {
        let mut detail = json!({ "reason": why });
        if let (Some((up, down)), Some(members)) = (bytes, detail.as_object_mut()) {
            members.insert("bytes_up".into(), up.into());
            members.insert("bytes_down".into(), down.into());
        }
        self.audit.record(Action::Closed, session, &detail);
    }

    /// The session as it is now: what the table knows wins. `None` for one
    /// that neither the table nor the records know.
    pub(super) fn view(
        &self,
        session: SessionId,
        slot: Option<&Slot>,
    ) -> Option<(SessionView, Explain)> {
        let record = self.by_session.get(&session);
        if record.is_none() && slot.is_none() {
            return None;
        }
        let mut view = record.map_or_else(|| blank(session), |record| record.view.clone());
        if let Some(slot) = slot {
            view.phase = Some(slot.phase);
            view.host = slot.host.clone().or(view.host);
            view.gateway = slot.gateway.clone().or(view.gateway);
        }
        Some((view, record.map(|record| record.explain.clone()).unwrap_or_default()))
    }
}

fn whose(view: &SessionView) -> Option<Whose> {
    Some((view.user.clone()?, view.resource.clone()?))
}

/// Whether two connections come from one client, as far as can be told.
fn client_of(address: &str) -> Option<IpAddr> {
    address.parse().ok().map(|address: SocketAddr| origin(address.ip()))
}

fn blank(session: SessionId) -> SessionView {
    SessionView {
        session,
        phase: None,
        user: None,
        resource: None,
        client_address: None,
        host: None,
        gateway: None,
        placed_at: None,
        started_at: None,
        ended_at: None,
        end: None,
        bytes_up: 0,
        bytes_down: 0,
    }
}
