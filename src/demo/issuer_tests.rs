//! Whom the issuer sends on, and whom it does not.

use super::*;

fn request() -> AuthorizationRequest {
    AuthorizationRequest {
        response_type: "code".into(),
        client_id: "client".into(),
        redirect_uri: "http://127.0.0.1:5000/callback".into(),
        scope: "openid profile".into(),
        code_challenge: "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM".into(),
        code_challenge_method: "S256".into(),
        ..AuthorizationRequest::default()
    }
}

#[test]
fn only_known_clients_on_loopback_are_redirected() {
    assert!(judge(&request(), "client").is_ok());
    let untrusted = [
        AuthorizationRequest { client_id: "other".into(), ..request() },
        AuthorizationRequest { redirect_uri: "ftp://127.0.0.1/".into(), ..request() },
        AuthorizationRequest { redirect_uri: "http://127.0.0.1.example/".into(), ..request() },
        AuthorizationRequest { redirect_uri: "http://127.0.0.1@x.example/".into(), ..request() },
        AuthorizationRequest { redirect_uri: "nonsense".into(), ..request() },
        AuthorizationRequest { state: Some("x".repeat(513)), ..request() },
    ];
    for request in untrusted {
        let judged = judge(&request, "client");
        assert!(matches!(judged, Err(AuthorizationError::Untrusted(_))), "{request:?}");
    }
}

#[test]
fn pkce_is_not_optional() {
    let told = [
        (
            AuthorizationRequest { response_type: "token".into(), ..request() },
            "unsupported_response_type",
        ),
        (AuthorizationRequest { scope: "profile".into(), ..request() }, "invalid_scope"),
        (AuthorizationRequest { code_challenge: String::new(), ..request() }, "invalid_request"),
        (
            AuthorizationRequest { code_challenge_method: "plain".into(), ..request() },
            "invalid_request",
        ),
    ];
    let redirect = Url::parse(&request().redirect_uri).unwrap();
    for (request, error) in told {
        let expected = AuthorizationError::Told(redirect.clone(), error);
        assert_eq!(judge(&request, "client"), Err(expected));
    }
}
