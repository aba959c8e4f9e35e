//! Steps 8 and 10: who is let in, decided without asking the broker.

use ringway::core::clock::UnixMillis;
use ringway::core::codes::Code;
use ringway::core::tickets::{Claims, Role};

use crate::support::fake_broker::{new_signer, random_id};
use crate::support::legs::knock;
use crate::support::world::World;

/// Both roles are refused with `code`, the broker hears nothing of it, and a
/// session that runs meanwhile does not notice.
async fn refused(world: &World, code: Code, ticket: impl Fn(Role) -> String) {
    let asked_before = world.broker.questions();
    for role in [Role::Client, Role::Host] {
        let counted_before = world.gateway.refusals(code);
        let outcome = knock(world.gateway.address, &world.tls, role, &ticket(role)).await;
        assert_eq!(outcome.unwrap_err().code, code, "{role:?}");
        assert_eq!(world.gateway.refusals(code), counted_before + 1);
    }
    assert_eq!(world.broker.questions(), asked_before);
}

fn changed(world: &World, role: Role, change: impl FnOnce(&mut Claims)) -> String {
    let mut claims = world.broker.claims(role, random_id(), &world.gateway.id);
    change(&mut claims);
    world.broker.sign(&claims)
}

#[tokio::test]
async fn step_8_a_bad_ticket_is_refused_with_its_own_code() {
    let world = World::start().await;
    let mut bystander = world.bystander().await;
    let now = UnixMillis::now();

    refused(&world, Code::TicketMissing, |_| String::new()).await;
    refused(&world, Code::TicketMalformed, |_| "rw1.garbage".into()).await;
    refused(&world, Code::TicketMalformed, |_| "x".repeat(5_000)).await;
    refused(&world, Code::TicketExpired, |role| {
        changed(&world, role, |claims| {
            claims.issued_at = UnixMillis(now.0 - 40_000);
            claims.expires_at = UnixMillis(now.0 - 1);
        })
    })
    .await;
    refused(&world, Code::TicketExpired, |role| {
        changed(&world, role, |claims| {
            claims.issued_at = UnixMillis(now.0 - 61_000);
            claims.expires_at = now.plus_ms(3_600_000);
        })
    })
    .await;
    refused(&world, Code::TicketNotYetValid, |role| {
        changed(&world, role, |claims| {
            claims.issued_at = now.plus_ms(60_000);
            claims.expires_at = now.plus_ms(90_000);
        })
    })
    .await;
    refused(&world, Code::TicketWrongGateway, |role| {
        changed(&world, role, |claims| claims.gateway = "gw-2".parse().unwrap())
    })
    .await;
    refused(&world, Code::TicketWrongRole, |role| {
        let other = if role == Role::Client { Role::Host } else { Role::Client };
        world.ticket(other, random_id())
    })
    .await;
    let stranger = new_signer();
    refused(&world, Code::TicketUnknownKey, |role| {
        stranger.sign(&world.broker.claims(role, random_id(), &world.gateway.id))
    })
    .await;
    refused(&world, Code::TicketBadSignature, |role| {
        let (one, other) = (world.ticket(role, random_id()), world.ticket(role, random_id()));
        let (_, signature) = one.rsplit_once('.').unwrap();
        let (signed, _) = other.rsplit_once('.').unwrap();
        format!("{signed}.{signature}")
    })
    .await;

    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn step_8_a_ticket_works_once() {
    let world = World::start().await;
    let mut bystander = world.bystander().await;
    let session = random_id();
    let address = world.gateway.address;
    let client_ticket = world.ticket(Role::Client, session);
    let host_ticket = world.ticket(Role::Host, session);

    // A host's ticket is used up even when it came too early to be of use.
    let early = knock(address, &world.tls, Role::Host, &host_ticket).await.unwrap_err();
    assert_eq!(early.code, Code::SessionUnknown);
    let again = knock(address, &world.tls, Role::Host, &host_ticket).await.unwrap_err();
    assert_eq!(again.code, Code::TicketUsed);

    let (tls, ticket) = (world.tls.clone(), client_ticket.clone());
    let waiting = tokio::spawn(async move { knock(address, &tls, Role::Client, &ticket).await });
    crate::support::wait::until("the broker is asked", || {
        world.broker.orchestrations().contains(&session)
    })
    .await;
    let while_waiting = knock(address, &world.tls, Role::Client, &client_ticket).await;
    assert_eq!(while_waiting.unwrap_err().code, Code::TicketUsed);
    // Another good ticket for a session that somebody waits for changes nothing.
    let second = world.leg(Role::Client, session).await;
    assert_eq!(second.unwrap_err().code, Code::TicketUsed);
    assert_eq!(world.broker.orchestrations().iter().filter(|s| **s == session).count(), 1);

    let mut host = world.leg(Role::Host, session).await.unwrap();
    let mut client = waiting.await.unwrap().unwrap();
    client.send(b"through").await;
    assert_eq!(host.receive(7).await, b"through");
    let while_live = knock(address, &world.tls, Role::Client, &client_ticket).await;
    assert_eq!(while_live.unwrap_err().code, Code::TicketUsed);
    bystander.assert_undisturbed().await;
}
