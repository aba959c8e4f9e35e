//! Session hosts that refuse, fail, fall silent or die, between a real broker
//! and real gateways: the client gets the code, the place is free again, the
//! table is right.

use std::sync::Arc;

use ringway::agent::Agent;
use ringway::config::agent::AgentConfig;
use ringway::core::codes::{Code, Refusal};
use ringway::core::ids::SessionId;
use ringway::wire::admin::AdminRequest;
use ringway::wire::channel::AgentToBroker;
use ringway::wire::enroll::MachineRole;

use crate::support::ca::TestCa;
use crate::support::legs::End;
use crate::support::scripted_host::ScriptedHost;
use crate::support::stage::{Stage, settings};
use crate::support::targets::{Echo, Refusing, Unreachable};
use crate::support::wait::within;

/// After a refusal: nobody holds a place, and the record says why.
async fn assert_given_back(stage: &Stage, session: SessionId, code: Code) {
    stage.until_free().await;
    let (view, _) = stage.explained(session).await;
    assert_eq!((view.phase, view.end.as_deref()), (None, Some(code.facts().name)));
    assert!(view.ended_at.is_some() && view.started_at.is_none(), "{view:?}");
}

/// Opens a session that is refused when the host is ordered.
async fn refused(stage: &Stage, code: Code) -> Refusal {
    let place = stage.place("alice").await.unwrap();
    assert_eq!(stage.host("host-1").await.sessions, 1, "the place is held");
    let refusal = stage.join(&place).await.unwrap_err();
    assert_eq!(refusal.code, code, "{refusal}");
    assert_given_back(stage, place.ringway.session, code).await;
    refusal
}

#[tokio::test]
async fn step09_a_host_whose_rdp_server_refuses_is_reported() {
    let stage = Stage::start_with_host(settings(), Refusing).await;
    let refusal = refused(&stage, Code::HostRefused).await;
    assert!(refusal.detail.unwrap().contains("nobody there"));
    stage.shutdown().await;
}

#[tokio::test]
async fn step09_a_host_whose_rdp_server_does_not_answer_is_reported_before_the_deadline() {
    let stage = Stage::start_with_host(settings(), Unreachable).await;
    // The agent's own deadline comes first, so that the reason is known.
    refused(&stage, Code::HostRefused).await;
    stage.shutdown().await;
}

#[tokio::test]
async fn step09_no_host_at_all_and_none_connected_are_the_same() {
    let mut stage = Stage::start().await;
    assert_eq!(stage.place("alice").await.unwrap_err().code, Code::NoHostAvailable);
    stage.world.add_host("host-1", Arc::new(Echo)).await.unwrap();
    drop(stage.open("alice").await.unwrap());
    stage.world.agents.pop().unwrap().shutdown().await;
    let gone = stage.world.until("the host is gone", |_, now| !now.hosts[0].connected);
    gone.await.unwrap();
    assert_eq!(stage.place("alice").await.unwrap_err().code, Code::NoHostAvailable);
    stage.until_free().await;
    stage.shutdown().await;
}

#[tokio::test]
async fn step09_a_draining_host_takes_nobody_new() {
    let stage = Stage::start_with_host(settings(), Echo).await;
    let mut alice = stage.open("alice").await.unwrap();
    let host = "host-1".parse().unwrap();
    stage.ask_broker(&AdminRequest::Drain { host, undo: false });
    assert_eq!(stage.place("bob").await.unwrap_err().code, Code::HostDraining);
    // Who has a session there stays, and returns.
    alice.leg.send(b"still here").await;
    assert_eq!(alice.leg.receive(10).await, b"still here");
    drop(stage.open("alice").await.unwrap());
    let host = "host-1".parse().unwrap();
    stage.ask_broker(&AdminRequest::Drain { host, undo: true });
    drop((stage.open("bob").await.unwrap(), alice));
    stage.until_free().await;
    stage.shutdown().await;
}

#[tokio::test]
async fn step09_an_agent_that_is_stopping_refuses_and_lets_live_sessions_go_on() {
    let mut stage = Stage::start_with_host(settings(), Echo).await;
    let mut alice = stage.open("alice").await.unwrap();
    let agent = stage.world.agents.pop().unwrap();
    let stopping = tokio::spawn(agent.shutdown());
    // It closes its doors a moment after it was asked to.
    let refusal = loop {
        match stage.open("bob").await {
            Ok(early) => drop(early),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal.code, Code::HostDraining);
    alice.leg.send(b"still here").await;
    assert_eq!(alice.leg.receive(10).await, b"still here");
    assert!(!stopping.is_finished());
    // It leaves with its last session.
    alice.leg.close().await;
    within("the agent's end", stopping).await.unwrap();
    stage.until_free().await;
    stage.shutdown().await;
}

#[tokio::test]
async fn step09_a_host_that_does_not_answer_the_order_is_given_up() {
    let stage = Stage::start().await;
    let mut host = ScriptedHost::start(&stage, "host-1").await;
    let place = stage.place("alice").await.unwrap();
    let session = place.ringway.session;
    let (answer, order) = tokio::join!(stage.join(&place), host.order());
    assert_eq!(answer.unwrap_err().code, Code::HostNoAnswer);
    assert_given_back(&stage, session, Code::HostNoAnswer).await;
    assert_eq!(host.cancelled(session).await, Code::HostNoAnswer);
    // An answer that comes too late changes nothing: the order is void, and so
    // is the way to the gateway.
    host.accept(&order);
    assert_eq!(host.cancelled(session).await, Code::ReservationExpired);
    assert_eq!(host.join(&order).await.unwrap_err().code, Code::SessionUnknown);
    stage.until_free().await;
    stage.shutdown().await;
}

#[tokio::test]
async fn step10_a_host_that_dies_between_order_and_dial_is_reported() {
    for accepts_first in [false, true] {
        let stage = Stage::start().await;
        let mut host = ScriptedHost::start(&stage, "host-1").await;
        let place = stage.place("alice").await.unwrap();
        let session = place.ringway.session;
        let (answer, ()) = tokio::join!(stage.join(&place), async {
            let order = host.order().await;
            if accepts_first {
                host.accept(&order);
                let accepted = stage.world.until("it accepted", |_, now| {
                    now.sessions[0].phase == Some(ringway::core::placement::Phase::Accepted)
                });
                accepted.await.unwrap();
            }
            host.die();
        });
        assert_eq!(answer.unwrap_err().code, Code::HostGone);
        assert_given_back(&stage, session, Code::HostGone).await;
        assert!(!stage.host("host-1").await.connected);
        stage.shutdown().await;
    }
}

#[tokio::test]
async fn step10_a_host_that_dies_before_the_order_is_reported() {
    let stage = Stage::start().await;
    let host = ScriptedHost::start(&stage, "host-1").await;
    let place = stage.place("alice").await.unwrap();
    host.die();
    let gone = stage.world.until("the host is gone", |_, now| !now.hosts[0].connected);
    gone.await.unwrap();
    assert_eq!(stage.join(&place).await.unwrap_err().code, Code::HostGone);
    assert_given_back(&stage, place.ringway.session, Code::HostGone).await;
    stage.shutdown().await;
}

#[tokio::test]
async fn step10_a_host_that_cannot_reach_the_gateway_is_reported() {
    let mut stage = Stage::start().await;
    // It trusts another CA than the gateways': its dial fails in TLS.
    let state_dir = stage.world.enrol("host-1", MachineRole::Agent).await.unwrap();
    let other_ca = state_dir.join("other-ca.pem");
    std::fs::write(&other_ca, TestCa::new().pem()).unwrap();
    let config = AgentConfig { gateway_ca: Some(other_ca), ..AgentConfig::new(state_dir) };
    let agent = Agent::start(&config, Arc::new(Echo), None).unwrap();
    within("the host's channel", agent.connected()).await;
    stage.world.agents.push(agent);
    let refusal = refused(&stage, Code::HostDialFailed).await;
    assert!(refusal.detail.unwrap().contains("TLS handshake"), "the reason travels along");
    stage.shutdown().await;
}

#[tokio::test]
async fn step10_a_host_may_say_why_it_cannot_come() {
    let stage = Stage::start().await;
    let mut host = ScriptedHost::start(&stage, "host-1").await;
    let place = stage.place("alice").await.unwrap();
    let (answer, ()) = tokio::join!(stage.join(&place), async {
        let order = host.order().await;
        host.accept(&order);
        let refusal = Refusal::with_detail(Code::HostDialFailed, "no route");
        host.say(AgentToBroker::OrderFailed { session: order.session, refusal });
    });
    let refusal = answer.unwrap_err();
    assert_eq!((refusal.code, refusal.detail.as_deref()), (Code::HostDialFailed, Some("no route")));
    assert_given_back(&stage, place.ringway.session, Code::HostDialFailed).await;
    stage.shutdown().await;
}

/// Half a record and then nothing: the client gets what was whole, and no
/// `close_notify` that would make the rest look complete.
#[tokio::test]
async fn step11_a_host_that_breaks_off_mid_record_is_not_taken_for_an_end() {
    let stage = Stage::start().await;
    let mut host = ScriptedHost::start(&stage, "host-1").await;
    for (reset, reasons) in
        [(true, ["host_reset", "host_tls_error"]), (false, ["host_truncated", "host_tls_error"])]
    {
        let (client, (order, mut leg)) = tokio::join!(stage.open("alice"), host.serve());
        let mut client = client.unwrap();
        leg.send(b"whole").await;
        assert_eq!(client.leg.receive(5).await, b"whole");
        // TLS 1.2's version in a header of 1000 bytes, 10 of which come.
        leg.send_raw(b"\x17\x03\x03\x03\xe8ten bytes.").await;
        if reset {
            leg.reset();
        } else {
            leg.cut().await;
        }
        let end = client.leg.end().await;
        assert!(matches!(end, End::Truncated | End::Reset), "{end:?}");
        let view = stage.end_of(order.session).await;
        assert!(reasons.contains(&view.end.as_deref().unwrap()), "{view:?}");
        assert_eq!(view.bytes_down, 5);
        stage.until_free().await;
    }
    stage.shutdown().await;
}

#[tokio::test]
async fn step11_the_death_of_an_agent_ends_its_sessions_alone() {
    let mut stage = Stage::start_with_host(settings(), Echo).await;
    let mut alice = stage.open("alice").await.unwrap();
    stage.world.add_host("host-2", Arc::new(Echo)).await.unwrap();
    let mut bob = stage.open("bob").await.unwrap();
    drop(stage.world.agents.remove(0));
    assert!(matches!(alice.leg.end().await, End::Truncated | End::Reset));
    let view = stage.end_of(alice.session).await;
    assert_eq!(view.host, Some("host-1".parse().unwrap()));
    bob.leg.send(b"not me").await;
    assert_eq!(bob.leg.receive(6).await, b"not me");
    assert_eq!((stage.host("host-1").await.sessions, stage.host("host-2").await.sessions), (0, 1));
    stage.shutdown().await;
}
