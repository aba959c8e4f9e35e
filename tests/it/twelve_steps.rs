//! Steps 1 to 6 between a real issuer, a real broker and our own client: from
//! the address of a workspace to signed files on the user's disk. The other
//! six are in `world_path`.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ringway::connect::SessionSettings;
use ringway::connect::trust::{RdpTrustError, Trust, read_trusted};
use ringway::core::clock::UnixMillis;
use ringway::core::codes::Code;
use ringway::core::secret::Secret;
use ringway::dial::Purpose;
use ringway::observe::timeline::{StepEvent, Timeline};
use ringway::tls::identity::read_chain;
use ringway::wire::feed::Discovery;
use ringway::wire::rdp_file::RdpFile;
use ringway::wire::rdp_signature::{self, SignatureError};
use serde_json::{Value, json};

use crate::support::programs::{ringway, said};
use crate::support::subscriber::{CLIENT_ID, Subscriber, USER};

#[tokio::test]
async fn step01_the_workspace_is_discovered_without_a_token() {
    let user = Subscriber::start().await;
    let url = format!("{}/api/feed/discovery", user.stage.world.broker_url());
    let found: Discovery = user.stage.https.get_json(Purpose::DISCOVER, &url, None).await.unwrap();
    assert_eq!(
        found,
        Discovery {
            workspace: "demo".into(),
            issuer: Some(user.issuer.issuer_url().into()),
            client_id: Some(CLIENT_ID.into()),
            audience: Some(CLIENT_ID.into()),
            scopes: ["openid", "profile", "offline_access"].map(str::to_owned).into(),
        }
    );
    // And that is all that is said to strangers.
    assert_eq!(user.feed(None).await.unwrap_err(), Code::TokenMissing);
    user.end().await;
}

#[tokio::test]
async fn step02_the_issuer_signs_the_user_in() {
    let user = Subscriber::start().await;
    let token = user.token().await;
    let claims = claims_of(&token);
    assert_eq!(claims["iss"], user.issuer.issuer_url());
    assert_eq!(claims["aud"], CLIENT_ID);
    assert_eq!(claims["preferred_username"], USER);
    assert!(claims["exp"].as_u64() > claims["iat"].as_u64(), "{claims}");
    // Each sign-in is its own; the issuer knows one client and no other.
    assert_ne!(user.token().await, token);
    assert!(user.sign_in(&user.issuer, "somebody-else").await.is_err());
    user.end().await;
}

#[tokio::test]
async fn step03_the_token_goes_to_the_feed_and_is_kept_nowhere() {
    let user = Subscriber::start().await;
    let token = user.token().await;
    let events: Arc<Mutex<Vec<StepEvent>>> = Arc::default();
    let heard = Arc::clone(&events);
    let timeline: Timeline = Arc::new(move |event| heard.lock().unwrap().push(event));
    let stored = user.subscribe(&token, Some(timeline)).await.unwrap();
    assert_eq!(stored.len(), 1);

    let events = std::mem::take(&mut *events.lock().unwrap());
    let passed: Vec<_> = events.iter().filter(|event| event.step == 3).collect();
    assert_eq!(passed.len(), 1, "{events:?}");
    assert!(passed[0].note.ends_with(user.stage.world.broker_url()), "{passed:?}");
    assert!(events.iter().all(|event| !event.note.contains(&token)));

    // Neither the client nor the broker, whose database is among these files.
    let signature = token.rsplit('.').next().unwrap().as_bytes();
    let files = user.files();
    assert!(files.iter().any(|file| file.ends_with("broker.sqlite3")), "{files:?}");
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let kept = bytes.windows(signature.len()).any(|window| window == signature);
        assert!(!kept, "{} keeps the token", file.display());
    }
    user.end().await;
}

#[tokio::test]
async fn step04_the_feed_refuses_a_bad_token_with_its_code() {
    let user = Subscriber::start().await;
    let good = user.token().await;
    let feed = user.feed(Some(&good)).await.unwrap();
    assert_eq!((feed.user.as_str(), feed.resources.len()), (USER, 1));

    let parts: Vec<_> = good.split('.').collect();
    let mut promoted = claims_of(&good);
    promoted["preferred_username"] = json!("root");
    let none = json!({ "alg": "none", "typ": "JWT" });
    let foreign = user.stranger().await;
    let foreign_token = user.sign_in(&foreign, CLIENT_ID).await.unwrap();
    for (bearer, code) in [
        (None, Code::TokenMissing),
        (Some("not-a-token".into()), Code::TokenMalformed),
        (Some(format!("{}.{}", parts[0], parts[1])), Code::TokenMalformed),
        (Some(format!("{}.{}.{}", parts[0], part(&promoted), parts[2])), Code::TokenBadSignature),
        (Some(format!("{}.{}.", part(&none), parts[1])), Code::TokenWrongAlgorithm),
        (Some(foreign_token), Code::TokenUnknownKey),
    ] {
        assert_eq!(user.feed(bearer.as_deref()).await.unwrap_err(), code, "{bearer:?}");
    }
    // The client reports it and stores nothing.
    let refused = user.subscribe("not-a-token", None).await.unwrap_err();
    assert!(refused.to_string().contains("token_malformed"), "{refused}");
    assert!(!user.out().exists());
    foreign.shutdown().await;
    user.end().await;
}

#[tokio::test]
async fn step05_the_files_are_signed_and_a_changed_one_is_refused() {
    let user = Subscriber::start().await;
    let stored = user.subscribe(&user.token().await, None).await.unwrap();
    let path = &stored[0].path;
    let file = RdpFile::parse(&std::fs::read(path).unwrap()).unwrap();
    let now = UnixMillis::now();
    let roots = read_chain(&user.ca_file()).unwrap();
    let verified = rdp_signature::verify(&file, &roots, now).unwrap();
    assert_eq!(Some(&verified.signer_subject), stored[0].signer.as_ref());
    for setting in ["gatewayhostname", "loadbalanceinfo", "remoteapplicationprogram"] {
        assert!(verified.covers(setting), "{setting} in {:?}", verified.scope);
    }
    let strangers = Trust::Signers(read_chain(&user.other_ca_file()).unwrap());
    let untrusted = read_trusted(path, &strangers, now).unwrap_err();
    assert!(
        matches!(
            untrusted,
            RdpTrustError::Signature { error: SignatureError::Untrusted { .. }, .. }
        ),
        "{untrusted}"
    );

    // Somebody sends the user to a gateway of their own.
    let mut changed = file.clone();
    changed.set_string("gatewayhostname", "gateway.attacker.example");
    assert_eq!(rdp_signature::verify(&changed, &roots, now).unwrap_err(), SignatureError::Wrong);
    let evil = user.out().join("evil.rdp");
    std::fs::write(&evil, changed.to_bytes()).unwrap();
    let mut connect = ringway();
    connect.arg("connect").arg(&evil).arg("--ca").arg(user.ca_file()).args(["--token", "t"]);
    let output = connect.output().unwrap();
    assert!(!output.status.success());
    assert!(said(&output).contains("rdp_file_untrusted"), "{}", said(&output));
    user.end().await;
}

#[tokio::test]
async fn step06_the_files_are_stored_for_their_user_alone() {
    let user = Subscriber::start().await;
    let token = user.token().await;
    let stored = user.subscribe(&token, None).await.unwrap();
    let path = user.out().join("Demo Desktop.rdp");
    assert_eq!(stored.iter().map(|file| &file.path).collect::<Vec<_>>(), [&path]);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    // The file alone says where to go and what for.
    let trust = Trust::Signers(read_chain(&user.ca_file()).unwrap());
    let (file, _) = read_trusted(&path, &trust, UnixMillis::now()).unwrap();
    let roots = user.stage.world.roots().unwrap();
    let settings = SessionSettings::from_rdp(&file, Secret::new(token.clone()), roots).unwrap();
    assert_eq!(settings.entry.port(), user.stage.entry().port());
    assert_eq!(settings.load_balance_info, "ringway:demo/desktop");
    assert_eq!(settings.application, "||desktop");

    // A second subscription leaves nothing else behind but its own record.
    user.subscribe(&token, None).await.unwrap();
    let names = std::fs::read_dir(user.out()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with(".ringway-localhost-"));
    assert_eq!(names, ["Demo Desktop.rdp"]);
    user.end().await;
}

fn claims_of(token: &str) -> Value {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&claims).unwrap()
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}
