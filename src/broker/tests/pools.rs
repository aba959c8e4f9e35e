//! What agents say of their hosts, and what it changes.

use super::super::testing::{TOKEN, World, session};
use crate::core::codes::Code;
use crate::core::health::HostCheck;
use crate::core::ids::{HostId, Label};
use crate::wire::channel::AgentToBroker;
use crate::wire::enroll::MachineRole;

fn check(fatal: bool, ok: bool) -> HostCheck {
    HostCheck { name: "target".into(), fatal, ok, detail: "refused".into() }
}

#[tokio::test]
async fn a_host_that_reports_a_fatal_check_gets_nobody_until_it_is_well() {
    let world = World::start("").await;
    let (agent, mut gateway) = world.with_machines().await;
    agent.outbox.post(AgentToBroker::Health { checks: vec![check(true, false)] });
    world.until("reported", |now| !now.hosts[0].checks.is_empty()).await;
    gateway.ask_for(1, "desktop", TOKEN);
    assert_eq!(gateway.place_refused().await, Code::HostUnhealthy);
    agent.outbox.post(AgentToBroker::Health { checks: vec![check(true, true)] });
    world.until("well", |now| now.hosts[0].checks[0].ok).await;
    assert_eq!(gateway.place(2).await.session, session(2));
}

#[tokio::test]
async fn an_agent_cannot_make_its_report_large() {
    let world = World::start("").await;
    let (agent, _gateway) = world.with_machines().await;
    let long = HostCheck { detail: "\x1b".repeat(1_000), ..check(false, false) };
    agent.outbox.post(AgentToBroker::Health { checks: vec![long; 50] });
    world.until("reported", |now| !now.hosts[0].checks.is_empty()).await;
    let checks = &world.broker.snapshot().await.hosts[0].checks;
    assert_eq!((checks.len(), checks[0].detail.clone()), (16, " ".repeat(200)));
}

#[tokio::test]
async fn a_host_is_known_from_its_enrolment_on() {
    let world = World::start("").await;
    world.enrol(MachineRole::Agent, "host-1").await;
    let now = world.broker.snapshot().await;
    let host: HostId = "host-1".parse().unwrap();
    assert_eq!((now.hosts[0].host.clone(), now.hosts[0].connected), (host, false));
    let (_agent, _gateway) = world.with_machines().await;
    let rack: Label = "rack-1".parse().unwrap();
    assert_eq!(world.broker.snapshot().await.hosts[0].labels, [rack]);
}
