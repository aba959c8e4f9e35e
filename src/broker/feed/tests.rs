//! The feed over HTTP, as stock clients, our own and attackers ask for it.

use reqwest::{RequestBuilder, Response};
use roxmltree::Document;

use super::access::COOKIE;
use super::cookie::{CookieKey, Purpose};
use crate::broker::testing::{TOKEN, World};
use crate::config::Findings;
use crate::config::broker::{BrokerConfig, Workspace};
use crate::core::clock::UnixMillis;
use crate::core::codes::Code;
use crate::wire::arm::RefusalBody;
use crate::wire::feed::{Feed, ResourceKind};
use crate::wire::rdp_file::RdpFile;

/// Two workspaces, and titles as awkward as they may be.
fn two_workspaces(config: &mut BrokerConfig) {
    config.entry_gateway = Some("gw.example:443".into());
    let workspace = |name: &str, title: &str| Workspace {
        name: name.parse().unwrap(),
        title: Some(title.into()),
        description: String::new(),
    };
    config.workspaces = vec![workspace("test", "Office"), workspace("lab", "Lab <&> \"1\"")];
    let mut application = config.resources[0].clone();
    application.id = "paint".parse().unwrap();
    application.title = "Paint\"; filename=\"evil.exe".into();
    application.kind = ResourceKind::RemoteApp;
    application.workspace = Some("lab".parse().unwrap());
    config.resources.push(application);
    assert!(Findings::of(|found| config.check(found)).is_empty());
}

async fn world() -> World {
    World::start_adjusted("", two_workspaces).await
}

fn get(world: &World, path: &str) -> RequestBuilder {
    world.http().get(world.url(path))
}

async fn sent(request: RequestBuilder) -> Response {
    request.send().await.unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

async fn code(response: Response) -> Code {
    response.json::<RefusalBody>().await.unwrap().refusal.code
}

/// What the login gives for a token.
async fn cookie(world: &World) -> String {
    let value = sent(get(world, "/api/feed/login").bearer_auth(TOKEN)).await.text().await.unwrap();
    format!("{COOKIE}={value}")
}

#[tokio::test]
async fn a_stock_client_finds_the_feed_signs_in_and_fetches_all_that_it_names() {
    let world = world().await;
    for path in super::WELL_KNOWN {
        let response = sent(get(&world, path)).await;
        assert_eq!(
            (response.status().as_u16(), header(&response, "location")),
            (302, "/feed/test")
        );
        let response = sent(get(&world, &format!("/feed/lab{path}"))).await;
        assert_eq!(header(&response, "location"), "/feed/lab");
    }
    let response = sent(get(&world, "/feed/lab")).await;
    assert_eq!(
        (response.status().as_u16(), header(&response, "location")),
        (302, "/api/feed/login")
    );

    let response = sent(get(&world, "/api/feed/login")).await;
    assert_eq!(response.status(), 401);
    let challenges: Vec<_> = response.headers().get_all("www-authenticate").iter().collect();
    assert_eq!(challenges, ["Bearer", "Basic realm=\"Ringway\", charset=\"UTF-8\""]);
    let wrong = get(&world, "/api/feed/login").basic_auth("ann", Some("guess"));
    assert_eq!(code(sent(wrong).await).await, Code::TokenUnknownKey);
    let response = sent(get(&world, "/api/feed/login").basic_auth("whoever", Some(TOKEN))).await;
    assert_eq!(response.status(), 200);
    assert_eq!(
        header(&response, "content-type"),
        "application/x-msts-webfeed-login; charset=utf-8"
    );
    let cookie = format!("{COOKIE}={}", response.text().await.unwrap());

    let response = sent(get(&world, "/feed/lab").header("cookie", &cookie)).await;
    assert_eq!(header(&response, "content-type"), "text/xml; charset=utf-8");
    let xml = response.text().await.unwrap();
    let document = Document::parse(&xml).unwrap();
    let publisher = document
        .descendants()
        .find(|n| n.has_tag_name(("http://schemas.microsoft.com/ts/2007/05/tswf", "Publisher")))
        .unwrap();
    assert_eq!(publisher.attribute("Name"), Some("Lab <&> \"1\""));
    let urls: Vec<_> = document
        .descendants()
        .filter_map(|node| node.attribute("FileURL").or(node.attribute("URL")))
        .collect();
    assert_eq!(urls.len(), 8, "one file, one icon in seven forms: {urls:?}");
    for url in urls {
        let kind = match url.rsplit_once('.').unwrap().1 {
            "png" => "image/png",
            "ico" => "image/vnd.microsoft.icon",
            _ => "application/x-rdp",
        };
        for request in
            [get(&world, url).header("cookie", &cookie), get(&world, url).bearer_auth(TOKEN)]
        {
            let response = sent(request).await;
            assert_eq!(
                (response.status().as_u16(), header(&response, "content-type")),
                (200, kind)
            );
            assert!(!response.bytes().await.unwrap().is_empty(), "{url}");
        }
        assert_eq!(sent(get(&world, url)).await.status(), 401);
    }
    let newer = "application/x-msts-radc+xml;radc_schema_version=2.0,text/xml";
    let request = get(&world, "/feed/lab").header("cookie", &cookie).header("accept", newer);
    let response = sent(request).await;
    assert_eq!(header(&response, "content-type"), "application/x-msts-radc+xml; charset=utf-8");
    assert!(response.text().await.unwrap().contains("SchemaVersion=\"2.0\""));
}

#[tokio::test]
async fn each_workspace_has_its_own_feed_and_one_address_lists_all() {
    let world = world().await;
    let feed: Feed = sent(get(&world, "/api/feed").bearer_auth(TOKEN)).await.json().await.unwrap();
    let listed =
        feed.resources.iter().map(|r| (r.id.as_str(), r.workspace.as_ref().unwrap().as_str()));
    assert_eq!(listed.collect::<Vec<_>>(), [("desktop", "test"), ("paint", "lab")]);
    assert_eq!(feed.workspace, "test");
    let paths: Vec<_> = feed.workspaces.iter().map(|w| w.feed_path.as_str()).collect();
    assert_eq!(paths, ["/feed/test", "/feed/lab"]);
    for (workspace, inside, outside) in [("test", "desktop", "paint"), ("lab", "paint", "desktop")]
    {
        let path = format!("/feed/{workspace}");
        let xml = sent(get(&world, &path).bearer_auth(TOKEN)).await.text().await.unwrap();
        assert_eq!(xml.matches("<Publisher ").count(), 1);
        assert!(xml.contains(&format!("ID=\"{inside}\"")), "{xml}");
        assert!(!xml.contains(&format!("ID=\"{outside}\"")), "{xml}");
        let path = format!("/api/feed/rdp/{inside}");
        let file = sent(get(&world, &path).bearer_auth(TOKEN)).await.bytes().await.unwrap();
        let info = RdpFile::parse(&file).unwrap().string("loadbalanceinfo").unwrap().to_owned();
        assert_eq!(info, format!("ringway:{workspace}/{inside}"));
    }
    let response = sent(get(&world, "/feed/nowhere").bearer_auth(TOKEN)).await;
    assert_eq!(code(response).await, Code::NotFound);
}

#[tokio::test]
async fn what_a_client_has_is_not_sent_again() {
    let world = world().await;
    let urls =
        ["/api/feed", "/feed/test", "/api/feed/rdp/desktop", "/api/feed/icons/desktop-32.png"];
    let mut tags = Vec::new();
    for url in urls {
        let response = sent(get(&world, url).bearer_auth(TOKEN)).await;
        let tag = header(&response, "etag").to_owned();
        assert!(tag.starts_with('"') && response.status() == 200, "{url}: {tag}");
        assert!(header(&response, "cache-control").starts_with("private"), "{url}");
        let again = get(&world, url).bearer_auth(TOKEN).header("if-none-match", &tag);
        let response = sent(again).await;
        assert_eq!((response.status().as_u16(), header(&response, "etag")), (304, tag.as_str()));
        assert!(response.bytes().await.unwrap().is_empty());
        let other = get(&world, url).bearer_auth(TOKEN).header("if-none-match", "\"other\"");
        assert_eq!(sent(other).await.status(), 200);
        tags.push(tag);
    }
    let world = world.restart_adjusted(two_workspaces).await;
    for (url, tag) in urls.into_iter().zip(&tags) {
        let again = get(&world, url).bearer_auth(TOKEN).header("if-none-match", tag);
        assert_eq!(sent(again).await.status(), 304, "{url} after a restart");
    }
    let world = world
        .restart_adjusted(|config| {
            two_workspaces(config);
            config.resources[0].title = "Another title".into();
        })
        .await;
    for (url, tag) in urls.into_iter().zip(&tags).take(3) {
        let again = get(&world, url).bearer_auth(TOKEN).header("if-none-match", tag);
        assert_eq!(sent(again).await.status(), 200, "{url} after a change");
    }
}

#[tokio::test]
async fn only_our_own_fresh_cookies_are_believed() {
    let world = world().await;
    let good = cookie(&world).await;
    let (feed, path) = (&world.broker.shared.feed, "/api/feed");
    assert_eq!(sent(get(&world, path).header("cookie", &good)).await.status(), 200);
    let content = serde_json::json!({ "user": "ann", "shown_as": "Ann", "groups": [] });
    let (past, later) = (UnixMillis(1), UnixMillis::now().plus_ms(60_000));
    let stranger = CookieKey::new(&[1; 32]).seal(Purpose::Feed, &content, later).unwrap();
    let expired = feed.cookies.seal(Purpose::Feed, &content, past).unwrap();
    let other_purpose = feed.cookies.seal(Purpose::SignIn, &content, later).unwrap();
    let forged = good.replacen("rwf1.", "rwf1.A", 1);
    for (cookie, expected) in [
        (format!("{COOKIE}={}", stranger.expose()), Code::TokenBadSignature),
        (format!("{COOKIE}={}", expired.expose()), Code::TokenExpired),
        (format!("{COOKIE}={}", other_purpose.expose()), Code::TokenMalformed),
        (forged, Code::TokenBadSignature),
        (format!("{COOKIE}={TOKEN}"), Code::TokenMalformed),
        (format!("{COOKIE}="), Code::TokenMalformed),
        (format!("other={good}"), Code::TokenMissing),
    ] {
        let response = sent(get(&world, path).header("cookie", &cookie)).await;
        assert_eq!(response.status(), 401);
        assert_eq!(code(response).await, expected);
        // Stock clients sign in again.
        let response = sent(get(&world, "/feed/test").header("cookie", &cookie)).await;
        assert_eq!(header(&response, "location"), "/api/feed/login", "{expected:?}");
    }
    let expired = format!("{COOKIE}={}", expired.expose());
    for path in ["/api/feed/rdp/desktop", "/api/feed/icons/desktop.ico"] {
        let response = sent(get(&world, path).header("cookie", &expired)).await;
        assert_eq!(header(&response, "location"), "/api/feed/login");
    }
}

#[tokio::test]
async fn a_cookie_opens_the_feed_and_no_session() {
    let world = world().await;
    let cookie = cookie(&world).await;
    let value = cookie.split_once('=').unwrap().1;
    let (_agent, mut gateway) = world.with_machines().await;
    gateway.ask_for(1, "desktop", value);
    assert_eq!(gateway.place_refused().await, Code::TokenUnknownKey);
    assert!(world.broker.snapshot().await.sessions.is_empty());
    for path in ["/api/feed", "/api/feed/login", "/api/feed/rdp/desktop"] {
        let response = sent(get(&world, path).bearer_auth(value)).await;
        assert_eq!(code(response).await, Code::TokenUnknownKey, "{path}");
    }
}

#[tokio::test]
async fn the_resources_of_others_are_refused_without_a_word_about_them() {
    let world = world().await;
    for path in ["/api/feed/rdp/secret", "/api/feed/rdp/secret.rdp", "/api/feed/icons/secret.ico"] {
        let response = sent(get(&world, path).bearer_auth(TOKEN)).await;
        assert_eq!(response.status(), 403);
        let body = response.text().await.unwrap();
        assert!(!body.contains("Not for Ann") && !body.contains("bob"), "{body}");
        assert_eq!(
            serde_json::from_str::<RefusalBody>(&body).unwrap().refusal.code,
            Code::NotAssigned
        );
    }
    let xml = sent(get(&world, "/feed/test").bearer_auth(TOKEN)).await.text().await.unwrap();
    assert!(!xml.contains("secret"), "{xml}");
}

#[tokio::test]
async fn paths_that_lead_elsewhere_lead_nowhere() {
    let world = world().await;
    for name in [
        "..%2f..%2fetc%2fpasswd",
        "..%5c..%5cbroker.sqlite3",
        "%2e%2e%2ffeed-cookies.key",
        "desktop%00.rdp",
        "desktop%0d%0aX-Evil:1",
        "DESKTOP",
        "desktop.rdp.rdp",
        "%ff",
    ] {
        let response = sent(get(&world, &format!("/api/feed/rdp/{name}")).bearer_auth(TOKEN)).await;
        assert!([400, 404].contains(&response.status().as_u16()), "{name}");
        assert!(response.headers().get("x-evil").is_none());
        for icon in [format!("{name}.ico"), format!("{name}-32.png")] {
            let path = format!("/api/feed/icons/{icon}");
            let response = sent(get(&world, &path).bearer_auth(TOKEN)).await;
            assert!([400, 404].contains(&response.status().as_u16()), "{icon}");
        }
    }
    for icon in
        ["desktop-31.png", "desktop-032.png", "desktop-4294967296.png", "desktop.png", ".ico"]
    {
        let path = format!("/api/feed/icons/{icon}");
        assert_eq!(sent(get(&world, &path).bearer_auth(TOKEN)).await.status(), 404, "{icon}");
    }
}

#[tokio::test]
async fn a_title_cannot_write_headers() {
    let world = world().await;
    let response = sent(get(&world, "/api/feed/rdp/paint").bearer_auth(TOKEN)).await;
    assert_eq!(
        header(&response, "content-disposition"),
        "attachment; filename=\"paint.rdp\"; \
         filename*=UTF-8''Paint--%20filename--evil.exe.rdp"
    );
    assert_eq!(header(&response, "x-content-type-options"), "nosniff");
}

mod page;
