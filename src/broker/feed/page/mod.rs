//! A page for people: sign in, see one's desktops and applications, download
//! their files. Everything on it works without script, too, but copying.

mod html;
mod sign_in;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Form, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use serde::Deserialize;

use super::{access, conditional, entity_tag, files, given_to, icon, rdp_path, workspace_path};
use crate::broker::Shared;
use crate::broker::http::Refused;
use crate::broker::identity::User;
use crate::core::codes::{Code, Refusal};
use crate::core::secret::Secret;
use crate::wire::feed::ResourceKind;
use html::{Door, Section, Tile};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// Nothing from elsewhere, nothing inline, no frame around it.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

pub fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/", get(home))
        .route("/page.css", get(style))
        .route("/page.js", get(script))
        .route("/favicon.ico", get(favicon))
        .route("/signin", get(sign_in::begin))
        .route(sign_in::CALLBACK_PATH, get(sign_in::callback))
        .route("/signin/token", post(with_token))
        .route("/signout", post(sign_out))
}

/// `GET /`: the tiles, or the way to them.
async fn home(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    match access::user(&shared, &headers).await {
        Ok(user) => answer(StatusCode::OK, tiles(&shared, user).await),
        Err(refusal) if refusal.code == Code::TokenMissing => {
            answer(StatusCode::OK, html::door(&door(&shared), None))
        }
        Err(refusal) => refuse(&shared, refusal),
    }
}

/// The way in, with what went wrong.
fn refuse(shared: &Shared, refusal: Refusal) -> Response {
    tracing::info!(step = 4, %refusal, "Refused a sign-in on the page");
    let facts = refusal.code.facts();
    let status =
        StatusCode::from_u16(facts.http_status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let problem = format!("{} ({})", facts.advice, facts.number);
    answer(status, html::door(&door(shared), Some(&problem)))
}

fn door(shared: &Shared) -> Door {
    let config = shared.config();
    let identity = &config.identity;
    let first = config.default_workspace();
    let all = config.all_workspaces().into_iter();
    let title = all.filter(|w| w.name == *first).map(|w| w.title().to_owned()).next();
    Door {
        workspace: title.unwrap_or_else(|| first.to_string()),
        with_issuer: identity.issuer.is_some() && identity.client_id.is_some(),
        with_token: identity.issuer.is_none(),
    }
}

async fn tiles(shared: &Shared, user: User) -> String {
    let config = shared.config();
    let given = given_to(shared, &config, &user).await;
    let sections = config.all_workspaces().into_iter().map(|workspace| Section {
        title: workspace.title().to_owned(),
        feed_url: format!("{}{}", config.public_url, workspace_path(&workspace.name)),
        tiles: given
            .iter()
            .filter(|given| *config.workspace_of(given.resource) == workspace.name)
            .map(|given| Tile {
                title: given.resource.title.clone(),
                id: given.resource.id.clone(),
                kind: match given.resource.kind {
                    ResourceKind::Desktop => "Desktop",
                    ResourceKind::RemoteApp => "Application",
                },
                icon: files::icon_path_of_size(&given.resource.id).replace("{size}", "100"),
                file: format!("{}.rdp", rdp_path(&given.resource.id)),
            })
            .collect(),
        description: workspace.description,
    });
    let sections: Vec<_> = sections.filter(|section| !section.tiles.is_empty()).collect();
    tracing::info!(step = 5, user = %user.name, resources = given.len(), "Showed the feed");
    html::home(&user.display_name, &config.public_url, &sections)
}

#[derive(Deserialize)]
struct TokenForm {
    token: Secret,
}

/// `POST /signin/token`: a static token, where there is no identity provider.
async fn with_token(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    form: Result<Form<TokenForm>, axum::extract::rejection::FormRejection>,
) -> Response {
    if !door(&shared).with_token {
        return Refused(Code::NotFound.into()).into_response();
    }
    let Ok(Form(TokenForm { token })) = form else {
        return refuse(&shared, Code::RequestMalformed.into());
    };
    if !is_own_form(&headers) {
        return refuse(&shared, Code::RequestMalformed.into());
    }
    match access::judge(&shared, token.expose().trim()).await {
        Ok(user) => let_in(&shared, user),
        Err(refusal) => refuse(&shared, refusal),
    }
}

/// Gives the cookie and shows the tiles.
fn let_in(shared: &Shared, user: User) -> Response {
    let lifetime_ms = shared.config().limits.feed_cookie_lifetime_ms;
    let cookie = access::feed_cookie(shared, user)
        .and_then(|cookie| Ok(access::set_cookie(access::COOKIE, cookie.expose(), lifetime_ms)?));
    match cookie {
        Ok(cookie) => {
            let mut response = Redirect::to("/").into_response();
            response.headers_mut().append(header::SET_COOKIE, cookie);
            secured(response)
        }
        Err(refusal) => refuse(shared, refusal),
    }
}

/// `POST /signout`: forgets the cookie; one that somebody copied dies of age.
async fn sign_out(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if !is_own_form(&headers) {
        return refuse(&shared, Code::RequestMalformed.into());
    }
    let mut response = Redirect::to("/").into_response();
    if let Ok(gone) = access::set_cookie(access::COOKIE, "", 0) {
        response.headers_mut().append(header::SET_COOKIE, gone);
    }
    secured(response)
}

/// Whether a form was sent from our own page. Browsers say where a request
/// comes from; who says nothing is no browser, and nobody's cookies are with it.
fn is_own_form(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text(header::HeaderName::from_static("sec-fetch-site")) {
        return site == "same-origin";
    }
    match (text(header::ORIGIN), text(header::HOST)) {
        (None, _) => true,
        (Some(origin), Some(host)) => origin.strip_prefix("https://") == Some(host),
        (Some(_), None) => false,
    }
}

async fn style(headers: HeaderMap) -> Response {
    embedded(&headers, STYLE.as_bytes(), "text/css; charset=utf-8")
}

async fn script(headers: HeaderMap) -> Response {
    embedded(&headers, SCRIPT.as_bytes(), "text/javascript; charset=utf-8")
}

async fn favicon(headers: HeaderMap) -> Response {
    embedded(&headers, &icon::ico(ResourceKind::Desktop, "ringway"), "image/vnd.microsoft.icon")
}

/// The same for everybody.
fn embedded(headers: &HeaderMap, bytes: &[u8], kind: &'static str) -> Response {
    conditional(headers, &entity_tag(bytes), "no-cache", || {
        ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], bytes.to_vec()).into_response()
    })
}

fn answer(status: StatusCode, html: String) -> Response {
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    secured((status, [(header::CONTENT_TYPE, kind)], html).into_response())
}

/// What a browser must not do with this.
fn secured(mut response: Response) -> Response {
    let head = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        head.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_page_may_send_forms() {
        let sent = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs.iter().map(|(name, value)| {
                (header::HeaderName::from_static(name), HeaderValue::from_static(value))
            });
            is_own_form(&pairs.collect())
        };
        assert!(sent(&[]));
        assert!(sent(&[("sec-fetch-site", "same-origin"), ("origin", "https://b:1")]));
        assert!(sent(&[("origin", "https://b:1"), ("host", "b:1")]));
        for foreign in [
            &[("sec-fetch-site", "cross-site")][..],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "none")],
            &[("origin", "https://evil"), ("host", "b:1")],
            &[("origin", "http://b:1"), ("host", "b:1")],
            &[("origin", "null"), ("host", "b:1")],
            &[("origin", "https://b:1")],
        ] {
            assert!(!sent(foreign), "{foreign:?}");
        }
    }
}
