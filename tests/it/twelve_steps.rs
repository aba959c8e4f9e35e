//! The path, step by step, between real roles: broker, two gateways, an agent
//! and a client, over real TLS.

use std::sync::Arc;
use std::time::Duration;

use ringway::agent::{Connecting, Target, TargetStream};
use ringway::core::tickets::Role;
use ringway::demo::world::{DESKTOP, World, WorldSettings};
use ringway::dial::http::HttpsClient;
use ringway::dial::relay::open_leg;
use ringway::dial::{DialLimits, Dialer, Purpose};
use ringway::tls::settings::TlsSettings;
use ringway::wire::arm::{ConnectionRequest, ConnectionResponse};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A session host that sends back what it gets.
#[derive(Debug)]
pub struct Echo;

impl Target for Echo {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(ours);
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
            Ok(Box::new(theirs) as Box<dyn TargetStream>)
        })
    }
}

#[tokio::test]
async fn step11_bytes_flow_both_ways() {
    ringway::tls::install_provider();
    let mut settings = WorldSettings::default();
    settings.identity.static_tokens =
        toml::from_str::<ringway::config::broker::Identity>(&format!(
            "static_tokens = [{{ user = \"alice\", token_sha256 = \"{}\" }}]",
            hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"secret"))
        ))
        .unwrap()
        .static_tokens;
    let mut world = World::start(settings).await.unwrap();
    world.add_host("host-1", Arc::new(Echo)).await.unwrap();
    let tls = TlsSettings::default().client(world.roots().unwrap()).unwrap();
    let http = HttpsClient::new(tls.clone(), DialLimits::default()).unwrap();
    let url =
        format!("https://localhost:{}/api/arm/v2/connections", world.gateways[0].address().port());
    let request = ConnectionRequest {
        application: format!("||{DESKTOP}"),
        load_balance_info: format!("ringway:demo/{DESKTOP}"),
        ringway_rtt_samples: vec![],
    };
    let response: ConnectionResponse =
        http.post_json(Purpose::CLIENT_LEG, &url, Some("secret"), &request).await.unwrap();
    println!("{response:#?}");
    let dialer = Dialer::new(tls, DialLimits::default());
    let gateway_url = response.gateway_location.strip_suffix("/relay/client").unwrap();
    let mut leg =
        open_leg(&dialer, gateway_url, Role::Client, &response.ringway.ticket).await.unwrap();
    leg.write_all(b"hello through the gateway").await.unwrap();
    leg.flush().await.unwrap();
    let mut got = [0; 25];
    tokio::time::timeout(Duration::from_secs(5), leg.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(&got, b"hello through the gateway");
    leg.shutdown().await.unwrap();
    let mut rest = Vec::new();
    leg.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    world.until("the session is over", |_, snapshot| snapshot.sessions.is_empty()).await.unwrap();
    world.shutdown().await;
}
