//! The page over HTTP: the way in, the tiles, the way out.

use super::*;

fn form(world: &World, path: &str, body: &str) -> RequestBuilder {
    let form = "application/x-www-form-urlencoded";
    world.http().post(world.url(path)).header("content-type", form).body(body.to_owned())
}

#[tokio::test]
async fn a_pasted_token_opens_the_page_until_sign_out() {
    let world = world().await;
    let door = sent(get(&world, "/")).await;
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(header(&door, name), value);
    }
    let policy = header(&door, "content-security-policy").to_owned();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let html = door.text().await.unwrap();
    assert!(html.contains("action=\"/signin/token\"") && html.contains("Office"), "{html}");
    assert!(!html.contains("Desktop"), "{html}");

    let wrong = sent(form(&world, "/signin/token", "token=guess")).await;
    assert_eq!(wrong.status(), 401);
    assert!(wrong.headers().get("set-cookie").is_none());
    assert!(wrong.text().await.unwrap().contains("role=\"alert\""));
    for (site, body) in [("cross-site", TOKEN), ("same-origin", "")] {
        let body = if body.is_empty() { String::new() } else { format!("token={body}") };
        let request = form(&world, "/signin/token", &body).header("sec-fetch-site", site);
        let response = sent(request).await;
        assert_eq!(response.status(), 400, "{site}");
        assert!(response.headers().get("set-cookie").is_none());
    }

    let response = sent(form(&world, "/signin/token", &format!("token=+{TOKEN}%0A"))).await;
    assert_eq!((response.status().as_u16(), header(&response, "location")), (303, "/"));
    let set = header(&response, "set-cookie").to_owned();
    for attribute in ["Secure", "HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=3600"] {
        assert!(set.split("; ").any(|one| one == attribute), "{set}");
    }
    let cookie = set.split(';').next().unwrap();
    let html = sent(get(&world, "/").header("cookie", cookie)).await.text().await.unwrap();
    for part in [
        "<h2>Office</h2>",
        "<h2>Lab &lt;&amp;&gt; &quot;1&quot;</h2>",
        "<h3>Desktop</h3>",
        "href=\"/api/feed/rdp/desktop.rdp\"",
        "ringway connect &#39;Desktop.rdp&#39;",
        "https://localhost/feed/lab",
    ] {
        assert!(html.contains(part), "no {part} in {html}");
    }
    assert!(!html.contains("Not for Ann"), "{html}");

    let foreign = form(&world, "/signout", "").header("cookie", cookie);
    let foreign = sent(foreign.header("sec-fetch-site", "cross-site")).await;
    assert!(foreign.headers().get("set-cookie").is_none(), "nobody signs others out");
    let out = sent(form(&world, "/signout", "").header("cookie", cookie)).await;
    assert_eq!((out.status().as_u16(), header(&out, "location")), (303, "/"));
    assert!(header(&out, "set-cookie").starts_with(".ASPXAUTH=; Path=/; Max-Age=0;"));
}

#[tokio::test]
async fn an_old_cookie_leads_back_to_the_door() {
    let world = world().await;
    let content = serde_json::json!({ "user": "ann", "shown_as": "Ann", "groups": [] });
    let expired = world.broker.shared.feed.cookies.seal(Purpose::Feed, &content, UnixMillis(1));
    let expired = format!("{COOKIE}={}", expired.unwrap().expose());
    let response = sent(get(&world, "/").header("cookie", expired)).await;
    assert_eq!(response.status(), 401);
    let html = response.text().await.unwrap();
    assert!(html.contains("The sign-in has expired") && html.contains("/signin/token"), "{html}");
}

#[tokio::test]
async fn style_script_and_picture_are_served_to_everybody() {
    let world = world().await;
    for (path, kind) in [
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/favicon.ico", "image/vnd.microsoft.icon"),
    ] {
        let response = sent(get(&world, path)).await;
        assert_eq!((response.status().as_u16(), header(&response, "content-type")), (200, kind));
        let again = get(&world, path).header("if-none-match", header(&response, "etag"));
        assert_eq!(sent(again).await.status(), 304, "{path}");
    }
}

#[tokio::test]
async fn without_an_identity_provider_nobody_is_sent_to_one() {
    let world = world().await;
    for path in ["/signin", "/signin/callback?code=c&state=s"] {
        let response = sent(get(&world, path)).await;
        assert!(response.headers().get("location").is_none(), "{path}");
        assert!(!response.status().is_success(), "{path}");
    }
}
