//! Session hosts that ail: who is sent there, what an operator sees; and hosts
//! that are drained by their label.

use std::sync::Arc;

use ringway::agent::TcpTarget;
use ringway::core::codes::Code;
use ringway::core::health::HostCheck;
use ringway::demo::world::WorldSettings;
use ringway::wire::admin::{AdminRequest, AdminResponse, BrokerRequest, HostView};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::ports::ReservedPort;
use crate::support::stage::{Stage, settings};
use crate::support::targets::Echo;

fn watchful() -> WorldSettings {
    WorldSettings {
        adjust_agent: |agent| {
            agent.limits.reconnect_base_ms = 10;
            agent.limits.reconnect_cap_ms = 100;
            agent.health.interval_ms = 20;
            agent.health.failures_until_bad = 2;
            agent.health.successes_until_good = 2;
        },
        ..settings()
    }
}

/// A server that echoes and is no RDP server: its agent cannot read a
/// certificate, and it takes sessions all the same.
fn serve(port: &ReservedPort) -> JoinHandle<()> {
    let listener = port.listen();
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await
            });
        }
    })
}

fn check<'a>(host: &'a HostView, name: &str) -> Option<&'a HostCheck> {
    host.checks.iter().find(|check| check.name == name)
}

async fn until_target(stage: &Stage, ok: bool) {
    let seen = stage.world.until("the target's state is known", |_, now| {
        check(&now.hosts[0], "target").is_some_and(|target| target.ok == ok)
    });
    seen.await.unwrap();
}

async fn host_of(stage: &Stage, user: &str) -> Result<String, Code> {
    let place = stage.place(user).await.map_err(|refusal| refusal.code)?;
    Ok(place.ringway.host.to_string())
}

#[tokio::test]
async fn step09_a_host_whose_rdp_server_is_gone_gets_nobody_until_it_is_back() {
    let port = ReservedPort::new();
    let server = serve(&port);
    let target = TcpTarget::new("127.0.0.1", port.address().port(), 700);
    let stage = Stage::start_with_host(watchful(), target).await;
    until_target(&stage, true).await;
    let mut alice = stage.open("alice").await.unwrap();
    stage.until_live(alice.session).await;

    server.abort();
    until_target(&stage, false).await;
    let refusal = stage.place("bob").await.unwrap_err();
    assert_eq!(refusal.code, Code::HostUnhealthy);
    // Her session is there, and so is the way back to it.
    alice.leg.send(b"still here").await;
    assert_eq!(alice.leg.receive(10).await, b"still here");
    assert_eq!(host_of(&stage, "alice").await.as_deref(), Ok("host-1"));

    let answer = stage.ask_broker(&AdminRequest::Hosts);
    let AdminResponse::Hosts { hosts } = answer else { panic!("{answer:?}") };
    let target = check(&hosts[0], "target").unwrap();
    assert!(target.fatal && target.detail.contains(&port.address().to_string()), "{target:?}");

    let _server = serve(&port);
    until_target(&stage, true).await;
    assert_eq!(host_of(&stage, "bob").await.as_deref(), Ok("host-1"));
    stage.shutdown().await;
}

#[tokio::test]
async fn step09_a_host_with_a_lesser_ailment_is_used_when_there_is_no_other() {
    let port = ReservedPort::new();
    let _server = serve(&port);
    let target = TcpTarget::new("127.0.0.1", port.address().port(), 700);
    let mut stage = Stage::start_with_host(watchful(), target).await;
    let seen = stage.world.until("its certificate is missed", |_, now| {
        check(&now.hosts[0], "certificate").is_some_and(|certificate| !certificate.ok)
    });
    seen.await.unwrap();
    assert_eq!(host_of(&stage, "alice").await.as_deref(), Ok("host-1"));
    stage.world.add_host("host-2", Arc::new(Echo)).await.unwrap();
    for user in ["bob", "carol"] {
        assert_eq!(host_of(&stage, user).await.as_deref(), Ok("host-2"), "{user}");
    }
    stage.shutdown().await;
}

#[tokio::test]
async fn step09_a_drained_label_holds_for_hosts_that_come_later_and_over_a_restart() {
    let settings = WorldSettings {
        adjust_agent: |agent| {
            agent.limits.reconnect_base_ms = 10;
            agent.limits.reconnect_cap_ms = 100;
            let name = agent.state_dir.file_name().unwrap().to_str().unwrap();
            let rack = if name == "host-2" { "rack-2" } else { "rack-1" };
            agent.labels = vec![rack.parse().unwrap()];
        },
        ..settings()
    };
    let mut stage = Stage::start_with_host(settings, Echo).await;
    let drain = |undo| BrokerRequest::DrainLabel { label: "rack-1".parse().unwrap(), undo };
    assert_eq!(stage.ask_broker(&drain(false)), AdminResponse::Done);
    assert_eq!(host_of(&stage, "alice").await, Err(Code::HostDraining));
    stage.world.add_host("host-2", Arc::new(Echo)).await.unwrap();
    stage.world.add_host("host-3", Arc::new(Echo)).await.unwrap();
    assert!(stage.host("host-3").await.draining && !stage.host("host-2").await.draining);
    assert_eq!(host_of(&stage, "alice").await.as_deref(), Ok("host-2"));

    stage.world.kill_broker().await.unwrap();
    stage.world.revive_broker().await.unwrap();
    let returned = stage.world.until("everybody is back", |world, now| {
        now.gateways.len() == world.gateways.len() && now.hosts.iter().all(|host| host.connected)
    });
    returned.await.unwrap();
    assert!(stage.host("host-1").await.draining && !stage.host("host-2").await.draining);
    assert_eq!(stage.ask_broker(&drain(true)), AdminResponse::Done);
    assert!(!stage.host("host-1").await.draining && !stage.host("host-3").await.draining);
    stage.shutdown().await;
}
