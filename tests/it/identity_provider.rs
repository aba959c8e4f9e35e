//! The judge of tokens and a real provider (step 4): its tokens, its changing
//! keys, its absence.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ringway::broker::identity::Judge;
use ringway::config::broker::Identity;
use ringway::core::codes::Code;
use ringway::tls::settings::TlsSettings;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::oidc_provider::OidcProvider;
use crate::support::wait::{until, within};

fn judge(identity: &Identity) -> Judge {
    Judge::new(identity, TlsSettings::default(), Duration::from_secs(10)).unwrap()
}

async fn code(judge: &Judge, token: &str) -> Code {
    judge.judge(token).await.unwrap_err().code
}

#[tokio::test]
async fn a_token_of_a_real_provider_is_accepted_and_what_it_is_not_for_is_refused() {
    let Some(provider) = OidcProvider::start().await else { return };
    let identity = provider.identity();
    let judge_here = judge(&identity);
    let token = provider.token().await;
    let user = judge_here.judge(&token).await.unwrap();
    assert_eq!((user.name.as_str(), user.groups.as_slice()), ("load", &["staff".to_owned()][..]));
    assert_eq!((user.amr.join(" "), user.acr.as_deref()), ("pwd otp mfa".into(), Some("gold")));
    let endpoints = judge_here.sign_in_endpoints().await.unwrap();
    assert!(endpoints.authorization.starts_with(&provider.issuer), "{endpoints:?}");
    assert!(endpoints.device_authorization.is_some());

    let elsewhere = Identity { audience: Some("other".into()), ..identity.clone() };
    assert_eq!(code(&judge(&elsewhere), &token).await, Code::TokenWrongAudience);
    let nobody = Identity { user_claim: Some("upn".into()), ..identity.clone() };
    assert_eq!(code(&judge(&nobody), &token).await, Code::TokenWithoutUser);
    let narrow = Identity { algorithms: vec!["RS256".into()], ..identity };
    assert_eq!(code(&judge(&narrow), &token).await, Code::TokenWrongAlgorithm);
    let no_id_token = judge_here.judge_id_token(&token, "nonce").await.unwrap_err();
    assert_eq!(no_id_token.code, Code::TokenWrongAudience);
}

#[tokio::test]
async fn forged_and_foreign_tokens_are_refused_each_with_its_code() {
    let Some(provider) = OidcProvider::start().await else { return };
    let Some(foreign) = OidcProvider::start().await else { return };
    let judge = judge(&provider.identity());
    let token = provider.token().await;
    let parts: Vec<_> = token.split('.').collect();
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[0]).unwrap()).unwrap();
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let mut claims: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    claims["preferred_username"] = json!("root");
    let with_header = |changes: &[(&str, &str)]| {
        let mut header = header.clone();
        for (name, value) in changes {
            header[*name] = json!(value);
        }
        format!("{}.{}.{}", part(&header), parts[1], parts[2])
    };
    for (forged, expected) in [
        (with_header(&[("alg", "none")]), Code::TokenWrongAlgorithm),
        (with_header(&[("alg", "HS256")]), Code::TokenWrongAlgorithm),
        (with_header(&[("kid", "unknown")]), Code::TokenUnknownKey),
        (format!("{}.{}.{}", parts[0], part(&claims), parts[2]), Code::TokenBadSignature),
        (foreign.token().await, Code::TokenUnknownKey),
        ("x".repeat(1024 * 1024), Code::TokenTooLong),
    ] {
        assert_eq!(code(&judge, &forged).await, expected, "{:.60}", forged);
    }
    assert!(judge.judge(&token).await.is_ok());
}

#[tokio::test]
async fn keys_change_under_load_and_nobody_is_refused_or_let_in_wrongly() {
    const WORKERS: u32 = 8;
    /// Of each worker, between two changes.
    const TOKENS: u32 = 10;
    let Some(provider) = OidcProvider::start().await else { return };
    let (provider, judged) = (Arc::new(provider), Arc::new(AtomicU32::new(0)));
    let judge = Arc::new(judge(&provider.identity()));
    let first = provider.token().await;
    assert!(judge.judge(&first).await.is_ok());

    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (provider, judge, judged) =
            (Arc::clone(&provider), Arc::clone(&judge), Arc::clone(&judged));
        workers.spawn(async move {
            loop {
                let token = provider.token().await;
                judge.judge(&token).await.unwrap_or_else(|refusal| panic!("{refusal}"));
                let (message, signature) = token.rsplit_once('.').unwrap();
                let forged = format!("{message}.{}", signature.chars().rev().collect::<String>());
                assert_eq!(code(&judge, &forged).await, Code::TokenBadSignature);
                judged.fetch_add(1, Relaxed);
            }
        });
    }
    for _ in 0..2 {
        let so_many = judged.load(Relaxed) + WORKERS * TOKENS;
        until("many tokens are judged", || judged.load(Relaxed) >= so_many).await;
        provider.rotate().await;
    }
    let so_many = judged.load(Relaxed) + WORKERS * TOKENS;
    until("many tokens are judged", || judged.load(Relaxed) >= so_many).await;
    // A worker ends only by being wrong.
    if let Some(wrong) = workers.try_join_next() {
        wrong.unwrap();
    }
    workers.shutdown().await;
    // Its key is not published any more.
    assert_eq!(code(&judge, &first).await, Code::TokenUnknownKey);
}

#[tokio::test]
async fn a_provider_that_is_away_is_missed_only_after_the_grace() {
    let Some(mut provider) = OidcProvider::start().await else { return };
    let token = provider.token().await;
    let patient = judge(&Identity { refresh_s: Some(1), ..provider.identity() });
    let hasty =
        judge(&Identity { refresh_s: Some(1), offline_grace_s: Some(0), ..provider.identity() });
    for judge in [&patient, &hasty] {
        assert!(judge.judge(&token).await.is_ok());
    }
    provider.kill();
    let missed = async {
        loop {
            match hasty.judge(&token).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(refusal) => return refusal,
            }
        }
    };
    let refusal = within("the provider is missed", missed).await;
    assert_eq!(refusal.code, Code::IdentityUnavailable);
    assert!(refusal.retry_after_ms.is_some());
    // As old, and with a day of grace.
    assert!(patient.judge(&token).await.is_ok());
}
