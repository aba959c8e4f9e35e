//! Personal pools: one machine for each user, and nobody else on it, whatever
//! becomes of the broker.

use std::sync::Arc;

use futures_util::future::join_all;
use ringway::config::broker::Kind;
use ringway::core::codes::Code;
use ringway::core::placement::AssignmentRule;
use ringway::demo::world::{POOL, WorldSettings};
use ringway::wire::admin::{AdminRequest, AdminResponse, BrokerRequest};

use crate::support::programs::{ringway, said};
use crate::support::stage::{Stage, settings};
use crate::support::targets::Echo;

fn personal() -> WorldSettings {
    WorldSettings {
        adjust_broker: |broker| {
            broker.limits.gateway_table_interval_ms = 100;
            broker.pools[0].kind = Kind::Personal;
            broker.pools[0].assignment = Some(AssignmentRule::Automatic);
        },
        ..settings()
    }
}

fn direct() -> WorldSettings {
    WorldSettings {
        adjust_broker: |broker| {
            broker.pools[0].kind = Kind::Personal;
            broker.pools[0].assignment = Some(AssignmentRule::Direct);
        },
        ..settings()
    }
}

async fn host_of(stage: &Stage, user: &str) -> Result<String, Code> {
    let place = stage.place(user).await.map_err(|refusal| refusal.code)?;
    Ok(place.ringway.host.to_string())
}

#[tokio::test]
async fn step09_each_user_gets_a_machine_of_their_own_and_keeps_it_over_a_restart() {
    let mut stage = Stage::start_with_host(personal(), Echo).await;
    stage.world.add_host("host-2", Arc::new(Echo)).await.unwrap();
    // The one who comes first has no claim on the first machine's sessions.
    let mut alice = stage.open("alice").await.unwrap();
    assert_eq!(host_of(&stage, "alice").await.as_deref(), Ok("host-1"));
    assert_eq!(host_of(&stage, "bob").await.as_deref(), Ok("host-2"));
    assert_eq!(host_of(&stage, "carol").await, Err(Code::NoFreeHost));

    stage.world.kill_broker().await.unwrap();
    stage.world.revive_broker().await.unwrap();
    let returned = stage.world.until("everybody is back", |world, now| {
        now.gateways.len() == world.gateways.len() && now.hosts.iter().all(|host| host.connected)
    });
    returned.await.unwrap();
    alice.leg.send(b"still mine").await;
    assert_eq!(alice.leg.receive(10).await, b"still mine");
    assert_eq!(host_of(&stage, "bob").await.as_deref(), Ok("host-2"));
    assert_eq!(host_of(&stage, "alice").await.as_deref(), Ok("host-1"));
    assert_eq!(host_of(&stage, "carol").await, Err(Code::NoFreeHost));

    // Nobody is sent elsewhere when their machine is off.
    drop(alice);
    stage.world.agents.remove(0).shutdown().await;
    let gone = stage.world.until("it is off", |_, now| !now.hosts[0].connected);
    gone.await.unwrap();
    assert_eq!(host_of(&stage, "alice").await, Err(Code::AssignedHostAway));
    stage.shutdown().await;
}

#[tokio::test]
async fn step09_of_users_who_race_for_the_last_free_machine_one_gets_it() {
    let stage = Stage::start_with_host(personal(), Echo).await;
    let racing = ["alice", "bob", "carol"].into_iter().cycle().take(18);
    let outcomes = join_all(racing.map(async |user| (user, host_of(&stage, user).await))).await;
    let mut placed: Vec<_> =
        outcomes.iter().filter(|(_, host)| host.is_ok()).map(|(user, _)| *user).collect();
    assert_eq!(placed.len(), 6, "every try of the one, and no other: {outcomes:?}");
    placed.dedup();
    assert_eq!(placed.len(), 1, "{outcomes:?}");
    let refused = outcomes.iter().filter(|(_, host)| *host == Err(Code::NoFreeHost)).count();
    assert_eq!(refused, 12, "{outcomes:?}");
    let listed = stage.ask_broker(&BrokerRequest::Assignments);
    let AdminResponse::Assignments { assignments } = listed else { panic!("{listed:?}") };
    assert_eq!((assignments.len(), assignments[0].user.as_str()), (1, placed[0]));
    stage.shutdown().await;
}

#[tokio::test]
async fn step09_a_user_returns_to_the_session_on_their_machine_even_while_it_drains() {
    let stage = Stage::start_with_host(personal(), Echo).await;
    let alice = stage.open("alice").await.unwrap();
    stage.until_live(alice.session).await;
    let drain = |undo| AdminRequest::Drain { host: "host-1".parse().unwrap(), undo };
    stage.ask_broker(&drain(false));
    assert_eq!(host_of(&stage, "alice").await.as_deref(), Ok("host-1"));
    stage.shutdown().await;
}

#[tokio::test]
async fn step09_the_operator_gives_machines_to_users_and_takes_them_away() {
    let stage = Stage::start_with_host(direct(), Echo).await;
    let socket = stage.world.broker_config.admin_socket();
    let ctl = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::from(ringway());
        command.args(["ctl", "--socket"]).arg(&socket).args(arguments);
        let output = command.output().await.unwrap();
        (output.status.success(), said(&output))
    };
    let assign = async |user: &str, host: &str, undo: &[&str]| {
        let arguments = ["assign", "--pool", POOL, "--user", user, "--host", host];
        ctl(&[&arguments, undo].concat()).await
    };
    assert_eq!(host_of(&stage, "alice").await, Err(Code::NoHostAssigned));
    assert_eq!(assign("alice", "host-1", &[]).await, (true, "done\n".into()));
    assert_eq!(host_of(&stage, "alice").await.as_deref(), Ok("host-1"));
    let (done, text) = assign("bob", "host-1", &[]).await;
    assert!(!done && text.contains("belongs to alice"), "{text}");
    let (done, text) = assign("bob", "host-9", &[]).await;
    assert!(!done && text.contains("no session host host-9 is enrolled in pool"), "{text}");
    let (done, text) = ctl(&["assignments"]).await;
    assert_eq!((done, text), (true, "POOL  USER   HOST\ndemo  alice  host-1\n".into()));
    let (_, text) = ctl(&["assignments", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["assignments"][0]["user"], "alice");

    assert!(assign("alice", "host-1", &["--undo"]).await.0);
    assert!(!assign("alice", "host-1", &["--undo"]).await.0, "it is not hers any more");
    assert_eq!(host_of(&stage, "alice").await, Err(Code::NoHostAssigned));
    assert!(assign("bob", "host-1", &[]).await.0);
    stage.shutdown().await;
}
