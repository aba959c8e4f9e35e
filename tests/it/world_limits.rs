//! Who gets a place and who does not: assignments, full pools, and a crowd at
//! the door. Between a real broker, gateways and agents.

use std::sync::Arc;

use futures_util::future::join_all;
use ringway::config::broker::Resource;
use ringway::core::codes::Code;
use ringway::demo::world::{DESKTOP, WorldSettings};
use ringway::wire::arm::ConnectionRequest;

use crate::support::scripted_host::ScriptedHost;
use crate::support::stage::{Stage, settings, token, wish};
use crate::support::targets::Echo;

#[tokio::test]
async fn step08_users_get_what_they_were_given_and_nothing_else() {
    let settings = WorldSettings {
        adjust_broker: |broker| {
            let mut private: Resource = broker.resources[0].clone();
            private.id = "private".parse().unwrap();
            private.users = vec!["alice".into()];
            broker.resources.push(private);
        },
        ..settings()
    };
    let stage = Stage::start_with_host(settings, Echo).await;
    let ask = async |bearer: Option<&str>, wish: &ConnectionRequest| {
        let answer = stage.place_at(stage.entry(), bearer, wish).await;
        answer.map(drop).map_err(|refusal| refusal.code)
    };
    let [alice, bob] = ["alice", "bob"].map(token);
    assert_eq!(ask(Some(&alice), &wish("private")).await, Ok(()));
    let elsewhere = ConnectionRequest {
        load_balance_info: format!("ringway:elsewhere/{DESKTOP}"),
        ..wish(DESKTOP)
    };
    for (bearer, wish, code) in [
        (Some(bob.as_str()), wish("private"), Code::NotAssigned),
        (Some(&bob), wish("nothing"), Code::ResourceUnknown),
        (Some(&bob), elsewhere, Code::ResourceUnknown),
        (Some(&bob), ConnectionRequest::default(), Code::ResourceUnknown),
        (Some("guessed"), wish(DESKTOP), Code::TokenUnknownKey),
        (None, wish(DESKTOP), Code::TokenMissing),
    ] {
        assert_eq!(ask(bearer, &wish).await, Err(code), "{wish:?}");
    }
    // Refusals hold no place.
    assert_eq!(stage.host("host-1").await.sessions, 1);
    stage.shutdown().await;
}

#[tokio::test]
async fn step09_two_users_have_sessions_of_their_own() {
    let stage = Stage::start_with_host(settings(), Echo).await;
    let (alice, bob) = tokio::join!(stage.open("alice"), stage.open("bob"));
    let mut seats = [alice.unwrap(), bob.unwrap()];
    for (seat, user) in seats.iter_mut().zip(["alice", "bob"]) {
        let text = format!("{user}'s");
        seat.leg.send(text.as_bytes()).await;
        assert_eq!(seat.leg.receive(text.len()).await, text.as_bytes());
        let (view, _) = stage.explained(seat.session).await;
        assert_eq!(view.user.as_deref(), Some(user));
        assert_eq!(view.resource.as_deref(), Some(DESKTOP));
        assert!(view.client_address.unwrap().starts_with("127.0.0.1:"));
    }
    // The end of one is not the other's.
    let [mut alice, mut bob] = seats;
    alice.leg.close().await;
    stage.end_of(alice.session).await;
    bob.leg.send(b"still here").await;
    assert_eq!(bob.leg.receive(10).await, b"still here");
    stage.shutdown().await;
}

#[tokio::test]
async fn step09_a_full_pool_is_said_and_a_place_that_is_free_is_given_at_once() {
    let settings = WorldSettings { sessions_per_host_max: 1, ..settings() };
    let stage = Stage::start_with_host(settings, Echo).await;
    let mut alice = stage.open("alice").await.unwrap();
    for user in ["bob", "alice"] {
        let refusal = stage.place(user).await.unwrap_err();
        assert_eq!(refusal.code, Code::PoolFull);
        assert!(refusal.retry_after_ms.is_some());
    }
    alice.leg.close().await;
    stage.end_of(alice.session).await;
    let bob = stage.open("bob").await.unwrap();
    // Whatever way it becomes free.
    bob.leg.reset();
    assert_eq!(stage.end_of(bob.session).await.end.as_deref(), Some("client_reset"));
    let mut carol = stage.open("carol").await.unwrap();
    carol.leg.send(b"my turn").await;
    assert_eq!(carol.leg.receive(7).await, b"my turn");
    stage.shutdown().await;
}

#[tokio::test]
async fn step09_a_host_may_allow_less_than_its_pool() {
    let settings = WorldSettings { adjust_agent: |agent| agent.sessions_max = 2, ..settings() };
    let stage = Stage::start_with_host(settings, Echo).await;
    assert_eq!(stage.host("host-1").await.sessions_max, 2);
    let seats = join_all(["alice", "bob", "carol"].map(|user| stage.open(user))).await;
    let (seated, refused): (Vec<_>, Vec<_>) = seats.into_iter().partition(Result::is_ok);
    assert_eq!((seated.len(), refused.len()), (2, 1));
    assert_eq!(refused[0].as_ref().unwrap_err().code, Code::PoolFull);
    stage.shutdown().await;
}

#[tokio::test]
async fn step09_fifty_at_once_get_exactly_the_ten_places_there_are() {
    let settings = WorldSettings { sessions_per_host_max: 5, ..settings() };
    let mut stage = Stage::start_with_host(settings, Echo).await;
    stage.world.add_host("host-2", Arc::new(Echo)).await.unwrap();
    let users = ["alice", "bob", "carol"].into_iter().cycle().take(50);
    let (mut seated, mut refused) = (Vec::new(), Vec::new());
    for outcome in join_all(users.map(|user| stage.open(user))).await {
        match outcome {
            Ok(seat) => seated.push(seat),
            Err(refusal) => refused.push(refusal.code),
        }
    }
    assert_eq!((seated.len(), refused), (10, vec![Code::PoolFull; 40]));
    for name in ["host-1", "host-2"] {
        let host = stage.host(name).await;
        assert_eq!((host.sessions, host.sessions_max), (5, 5), "{name}");
    }
    // All of them carry bytes, on both gateways together.
    for seat in &mut seated {
        seat.leg.send(b"one of ten").await;
        assert_eq!(seat.leg.receive(10).await, b"one of ten");
    }
    let relayed = stage.world.gateways.iter().map(|gateway| gateway.shared().sessions());
    assert_eq!(relayed.sum::<u64>(), 10);
    drop(seated);
    stage.until_free().await;
    stage.shutdown().await;
}

#[tokio::test]
async fn step08_a_client_that_leaves_while_it_waits_gives_its_place_back() {
    let stage = Stage::start().await;
    let mut host = ScriptedHost::start(&stage, "host-1").await;
    let place = stage.place("alice").await.unwrap();
    let session = place.ringway.session;
    let order = tokio::select! {
        answer = stage.join(&place) => panic!("nobody came, yet: {answer:?}"),
        // The client is dropped, its connection with it.
        order = host.order() => order,
    };
    assert_eq!(host.cancelled(session).await, Code::ClientDidNotArrive);
    stage.until_free().await;
    let (view, _) = stage.explained(session).await;
    assert_eq!(view.end.as_deref(), Some("client_did_not_arrive"));
    // The host is too late, wherever it is by now.
    host.accept(&order);
    assert_eq!(host.cancelled(session).await, Code::ReservationExpired);
    assert_eq!(host.join(&order).await.unwrap_err().code, Code::SessionUnknown);
    stage.until_free().await;
    stage.shutdown().await;
}

#[tokio::test]
async fn step08_a_client_that_never_comes_gives_its_place_back() {
    let settings = WorldSettings {
        sessions_per_host_max: 1,
        adjust_broker: |broker| broker.limits.reservation_ms = 200,
        ..settings()
    };
    let stage = Stage::start_with_host(settings, Echo).await;
    let place = stage.place("alice").await.unwrap();
    stage.until_free().await;
    let (view, _) = stage.explained(place.ringway.session).await;
    assert_eq!(view.end.as_deref(), Some("reservation_expired"));
    let late = stage.join(&place).await.unwrap_err();
    assert!(matches!(late.code, Code::TicketExpired | Code::ReservationExpired), "{late}");
    stage.place("bob").await.unwrap();
    stage.shutdown().await;
}
