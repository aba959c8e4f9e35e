//! Steps 8 to 11 undone: an administrator ends sessions, on every gateway,
//! through the admin socket of a real broker.

use ringway::cli::ctl;
use ringway::core::codes::Code;
use ringway::core::ids::SessionId;
use ringway::core::tickets::Role;
use ringway::demo::world::DESKTOP;
use ringway::wire::admin::{AdminResponse, BrokerRequest, Whom};
use ringway::wire::arm::RttSample;

use crate::support::legs::{End, Leg};
use crate::support::stage::{Stage, settings, token, wish};
use crate::support::targets::Echo;

fn disconnect(stage: &Stage, whom: Whom) -> AdminResponse {
    let socket = stage.world.broker_config.admin_socket();
    ctl::ask(&socket, &BrokerRequest::Disconnect { whom }).unwrap()
}

/// A session of Alice's at the gateway that she says is near.
async fn open_at(stage: &Stage, near: &str) -> (SessionId, Leg) {
    let mut wish = wish(DESKTOP);
    wish.ringway_rtt_samples = ["gw-1", "gw-2"]
        .map(|name| RttSample {
            gateway: name.parse().unwrap(),
            rtt_us: if name == near { 1_000 } else { 50_000 },
            age_ms: 0,
        })
        .into();
    let place = stage.place_at(stage.entry(), Some(&token("alice")), &wish).await.unwrap();
    assert_eq!(place.ringway.gateway.as_str(), near);
    let leg = stage.join(&place).await.unwrap();
    (place.ringway.session, leg)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_user_has_ends_on_every_gateway_and_the_old_ticket_is_void() {
    let stage = Stage::start_with_host(settings(), Echo).await;
    let mut alices = vec![open_at(&stage, "gw-1").await, open_at(&stage, "gw-2").await];
    let mut bob = stage.open("bob").await.unwrap();
    for session in alices.iter().map(|(session, _)| *session).chain([bob.session]) {
        stage.until_live(session).await;
    }
    // A third one is on its way: placed, and the ticket not used yet.
    let placed = stage.place("alice").await.unwrap();

    let ended = disconnect(&stage, Whom::User { user: "alice".into() });
    let expected = AdminResponse::Disconnected { live: 2, pending: 1, of_unknown_users: 0 };
    assert_eq!(ended, expected);
    for (session, leg) in &mut alices {
        assert_eq!(leg.end().await, End::Clean);
        assert_eq!(stage.end_of(*session).await.end.as_deref(), Some("disconnected"));
    }
    let ticket = placed.ringway.ticket.expose();
    let back = stage.knock(placed.gateway_location.expose(), Role::Client, ticket).await;
    assert_eq!(back.unwrap_err().code, Code::SessionRevoked);
    bob.leg.send(b"still here").await;
    assert_eq!(bob.leg.receive(10).await, b"still here");
    // She is not locked out; that is the identity provider's affair.
    let mut again = stage.open("alice").await.unwrap();
    again.leg.close().await;
    stage.shutdown().await;
}
