//! A stock client comes back to a host with one seat, again and again, whatever
//! became of its last connection. Between a real broker, gateway and agent.

use ringway::core::codes::{Code, Refusal};
use ringway::demo::world::{DESKTOP, WorldSettings};

use crate::support::legs::Leg;
use crate::support::stage::{Stage, settings, token};
use crate::support::stock_wire::{BINARY, TOKEN, frame, next_frame, upgrade_with_header};
use crate::support::targets::Echo;
use crate::support::wait::within;

async fn one_seat() -> Stage {
    let settings = WorldSettings {
        gateways: 1,
        sessions_per_host_max: 1,
        adjust_agent: |agent| agent.sessions_max = 1,
        ..settings()
    };
    Stage::start_with_host(settings, Echo).await
}

async fn join(stage: &Stage, user: &str) -> Result<Leg, Refusal> {
    let url = format!("https://localhost:{}", stage.entry().port());
    let mut client = stage.dial(&url).await;
    let target = format!("/wst/demo/{DESKTOP}");
    let reply = client.ask(&upgrade_with_header(&target).replace(TOKEN, &token(user))).await;
    if reply.status == 101 { Ok(client) } else { Err(reply.refusal()) }
}

async fn assert_echoes(client: &mut Leg) {
    client.send(&frame(BINARY, b"is it me?")).await;
    let mut echoed = Vec::new();
    while echoed.len() < 9 {
        let (opcode, payload) = next_frame(client).await;
        assert_eq!(opcode, BINARY);
        echoed.extend(payload);
    }
    assert_eq!(echoed, b"is it me?");
}

#[tokio::test]
async fn step09_who_comes_back_at_once_has_the_only_seat() {
    let stage = one_seat().await;
    let mut client = join(&stage, "alice").await.unwrap();
    for round in 0..12 {
        assert_echoes(&mut client).await;
        // Gone without a word, with one, or (for all that anybody knows) not.
        let last = client;
        let kept = match round % 3 {
            0 => {
                last.reset();
                None
            }
            1 => {
                let mut last = last;
                last.close().await;
                None
            }
            _ => Some(last),
        };
        client = join(&stage, "alice").await.unwrap_or_else(|why| panic!("round {round}: {why}"));
        assert_eq!(stage.host("host-1").await.sessions, 1);
        if let Some(mut last) = kept {
            within("the old one's end", last.0.get_mut().0.readable()).await.unwrap();
            last.read_to_end().await;
        }
    }
    assert_echoes(&mut client).await;
    // Strict all the same.
    assert_eq!(join(&stage, "bob").await.unwrap_err().code, Code::PoolFull);
    drop(client);
    stage.until_free().await;
    join(&stage, "bob").await.unwrap();
    stage.shutdown().await;
}
