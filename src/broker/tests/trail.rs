//! Every step that matters leaves a record, and the chain of them is whole;
//! ticket keys are replaced without a gap.

use std::collections::BTreeSet;

use super::super::DATABASE_FILE;
use super::super::store::verify_audit;
use super::super::testing::{FakeGateway, TOKEN, World, session};
use super::revoking::{admin, ann, live};
use crate::core::audit::Record;
use crate::core::clock::UnixMillis;
use crate::core::codes::Code;
use crate::core::tickets::{PublishedKey, Role, TicketVerifier};
use crate::wire::admin::{AdminRequest, AdminResponse, BrokerRequest, KeysView};
use crate::wire::channel::{AgentToBroker, BrokerToGateway};
use crate::wire::enroll::MachineRole;

async fn records(world: &World) -> Vec<Record> {
    let all = BrokerRequest::Audit { after: 0, last: None, since: None, limit: 1_000 };
    match admin(world, all).await.unwrap() {
        AdminResponse::Audit { records } => records,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn whatever_happens_to_a_session_and_its_machines_is_recorded() {
    let world = World::start("").await;
    let (mut agent, mut gateway) = world.with_machines().await;
    let http = world.http();
    for token in [TOKEN, "guess"] {
        http.get(world.url("/api/feed")).bearer_auth(token).send().await.unwrap();
    }
    live(&world, &mut agent, &mut gateway, 1).await;
    gateway.ended(1);
    world.until("over", |now| now.sessions.is_empty()).await;
    gateway.ask_for(2, "secret", TOKEN);
    assert_eq!(gateway.place_refused().await, Code::NotAssigned);
    live(&world, &mut agent, &mut gateway, 3).await;
    for request in [
        BrokerRequest::Disconnect { whom: ann() },
        BrokerRequest::RotateKeys,
        BrokerRequest::Common(AdminRequest::Drain { host: "host-1".parse().unwrap(), undo: false }),
        BrokerRequest::Revoke { role: MachineRole::Agent, name: "host-1".into(), undo: false },
    ] {
        admin(&world, request).await.unwrap();
    }
    let database = world.dir.path().join(DATABASE_FILE);
    // A stop writes what is on its way.
    let world = world.restart().await;
    let all = records(&world).await;
    assert_eq!(verify_audit(&database, vec![]).unwrap().number, all.len() as u64);

    let actions: BTreeSet<&str> = all.iter().map(|record| record.action.as_str()).collect();
    for expected in [
        "chain_began",
        "closed",
        "connected",
        "disconnected",
        "drained",
        "enrol_token_created",
        "enrolled",
        "key_announced",
        "operator_asked",
        "place_refused",
        "placed",
        "revoked",
        "sign_in",
        "sign_in_refused",
    ] {
        assert!(actions.contains(expected), "no {expected} among {actions:?}");
    }
    let id = session(1).to_string();
    let story: Vec<_> = all.iter().filter(|record| record.subject == id).collect();
    let told: Vec<_> = story.iter().map(|record| record.action.as_str()).collect();
    assert_eq!(told, ["placed", "connected", "closed"]);
    let detail: serde_json::Value = serde_json::from_str(&story[0].detail).unwrap();
    for (key, value) in
        [("user", "ann"), ("resource", "desktop"), ("host", "host-1"), ("gateway", "gw-1")]
    {
        assert_eq!(detail[key], value);
    }
    assert_eq!(story[2].detail, r#"{"bytes_down":2,"bytes_up":1,"reason":"client_closed"}"#);
    // No secret of anybody's is in it.
    let text = serde_json::to_string(&all).unwrap();
    assert!(!text.contains(TOKEN) && !text.contains("rwe_") && !text.contains("rw1."), "{text}");

    let tail = BrokerRequest::Audit { after: 0, last: Some(2), since: None, limit: 1_000 };
    let AdminResponse::Audit { records: tail } = admin(&world, tail).await.unwrap() else {
        panic!()
    };
    assert_eq!(tail, all[all.len() - 2..]);
    let since = Some(UnixMillis::now().plus_ms(60_000));
    let later = BrokerRequest::Audit { after: 0, last: None, since, limit: 1_000 };
    assert_eq!(admin(&world, later).await.unwrap(), AdminResponse::Audit { records: vec![] });
    let status = BrokerRequest::Common(AdminRequest::Status);
    let AdminResponse::Status(status) = admin(&world, status).await.unwrap() else { panic!() };
    let head = all.last().map(|last| format!("{}:{}", last.number, last.hash)).unwrap();
    assert_eq!((status.audit.head, status.audit.lost, status.audit.problem), (head, 0, None));
}

async fn rotate(world: &World) -> anyhow::Result<KeysView> {
    admin(world, BrokerRequest::RotateKeys).await.map(|answer| match answer {
        AdminResponse::Keys(keys) => keys,
        other => panic!("{other:?}"),
    })
}

/// Until the gateway is told of keys like that.
async fn told_keys(
    gateway: &mut FakeGateway,
    are_right: impl Fn(&[PublishedKey]) -> bool,
) -> Vec<PublishedKey> {
    loop {
        match gateway.inbound.recv().await.unwrap() {
            BrokerToGateway::Gateways { ticket_keys, .. } if are_right(&ticket_keys) => {
                return ticket_keys;
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn gateways_know_the_next_ticket_key_before_it_signs_and_the_last_one_after() {
    let brisk = "heartbeat_timeout_ms = 500\nheartbeat_interval_ms = 100";
    let world = World::start(brisk).await;
    let (mut agent, mut gateway) = world.with_machines().await;
    let first = told_keys(&mut gateway, |keys| keys.len() == 1).await.remove(0);
    let early = gateway.place(1).await;
    let view = rotate(&world).await.unwrap();
    assert_eq!(view.signing, first.key_id);
    let next = view.next.unwrap();
    let both = told_keys(&mut gateway, |keys| keys.len() == 2).await;
    assert_eq!((&both[0].key_id, &both[1].key_id), (&first.key_id, &next));
    let again = rotate(&world).await.unwrap_err().to_string();
    assert!(again.contains("under way"), "{again}");

    // In a while, the order turns. Both are known all the time.
    let turned = told_keys(&mut gateway, |keys| keys[0].key_id == next).await;
    assert_eq!(turned.len(), 2);
    let verifier = TicketVerifier::new(&turned);
    let here = "gw-1".parse().unwrap();
    let is_good =
        |ticket: &str, role| verifier.verify(ticket, &here, role, UnixMillis::now()).is_ok();
    let late = gateway.place(2).await;
    assert!(is_good(early.client_ticket.expose(), Role::Client));
    assert!(is_good(late.client_ticket.expose(), Role::Client));
    assert!(late.client_ticket.expose().contains(&next));
    gateway.orchestrate(2);
    assert!(is_good(agent.order().await.ticket.expose(), Role::Host));
    agent.outbox.post(AgentToBroker::OrderAccepted { session: session(2) });

    // A restart changes nothing, and a gateway that comes now knows both.
    let world = world.restart().await;
    let credentials = world.enrol(MachineRole::Gateway, "gw-2").await;
    let mut newcomer = world.gateway(&credentials, &[]).await;
    let known = told_keys(&mut newcomer, |_| true).await;
    assert_eq!(known, turned);
}
