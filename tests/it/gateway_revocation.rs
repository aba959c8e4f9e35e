//! Steps 8 and 10 at a gateway: what an administrator ended is over, and no
//! ticket brings it back.

use ringway::core::codes::Code;
use ringway::core::ids::SessionId;
use ringway::core::tickets::Role;
use ringway::wire::channel::BrokerToGateway;

use crate::support::fake_broker::random_id;
use crate::support::legs::{End, knock};
use crate::support::wait::{until, within};
use crate::support::world::World;

/// The broker tells the gateway, which has heard it when this returns.
async fn revoke(world: &World, sessions: &[SessionId]) {
    let sessions = sessions.to_vec();
    world.broker.send(&world.gateway.id, BrokerToGateway::Revoked { sessions: sessions.clone() });
    until("the gateway knows", || sessions.iter().all(|s| world.gateway.shared().is_revoked(*s)))
        .await;
}

#[tokio::test]
async fn step_8_tickets_of_an_ended_session_are_void_before_their_first_use() {
    let world = World::start().await;
    let mut bystander = world.bystander().await;
    let (ended, other) = (random_id(), random_id());
    let client = world.ticket(Role::Client, ended);
    let host = world.ticket(Role::Host, ended);
    revoke(&world, &[ended]).await;
    for (role, ticket) in [(Role::Client, client), (Role::Host, host)] {
        let refused = knock(world.gateway.address, &world.tls, role, &ticket).await.unwrap_err();
        assert_eq!(refused.code, Code::SessionRevoked, "{role:?}");
    }
    assert_eq!(world.gateway.refusals(Code::SessionRevoked), 2);
    assert!(!world.broker.orchestrations().contains(&ended), "the broker was asked");
    // Another session's are as good as ever.
    let host = world.leg(Role::Host, other).await;
    assert_eq!(host.unwrap_err().code, Code::SessionUnknown);
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn step_11_live_sessions_that_are_ended_close_at_both_ends_and_no_others_do() {
    let world = World::start().await;
    let mut bystander = world.bystander().await;
    let mut pairs = Vec::new();
    for _ in 0..12 {
        pairs.push(world.pair().await);
    }
    let mut kept = pairs.split_off(5);
    let ended: Vec<SessionId> = pairs.iter().map(|pair| pair.session).collect();
    revoke(&world, &ended).await;
    for pair in &mut pairs {
        assert_eq!(pair.client.end().await, End::Clean);
        assert_eq!(pair.host.end().await, End::Clean);
        assert_eq!(world.close_reason(pair.session).await, "disconnected");
        let back = world.leg(Role::Client, pair.session).await;
        assert_eq!(back.unwrap_err().code, Code::SessionRevoked);
    }
    for pair in &mut kept {
        pair.assert_alive().await;
    }
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn step_8_a_client_that_waits_for_its_host_is_told() {
    let world = World::start().await;
    let session = random_id();
    let waiting = world.waiting_client(session).await;
    revoke(&world, &[session]).await;
    let refused = within("an answer", waiting).await.unwrap().unwrap_err();
    assert_eq!(refused.code, Code::SessionRevoked);
    assert_eq!(world.close_reason(session).await, Code::SessionRevoked.to_string());
}
