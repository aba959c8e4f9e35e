//! The feed's page: signing in at the identity provider, by hand (steps 1 to 5)
//! and in a real browser.

use reqwest::header::{CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE};
use reqwest::{Client, Response, StatusCode, Url};
use ringway::config::broker::{BrokerConfig, Workspace};
use ringway::demo::world::WorldSettings;
use ringway::tls::settings::TlsSettings;
use ringway::wire::feed::ResourceKind;
use serde_json::json;

use crate::support::chromium::{Chromium, ENTER, PROGRAMS};
use crate::support::programs::available;
use crate::support::stage::settings;
use crate::support::subscriber::{CLIENT_ID, Subscriber, USER};

/// A desktop, a second workspace, applications, titles long and short.
fn furnished(config: &mut BrokerConfig) {
    config.limits.gateway_table_interval_ms = 100;
    let workspace = |name: &str, title: &str, description: &str| Workspace {
        name: name.parse().unwrap(),
        title: Some(title.into()),
        description: description.into(),
    };
    config.workspaces = vec![
        workspace("demo", "Office", "Desktops of the office in Bern"),
        workspace("lab", "Laboratory", ""),
    ];
    let desktop = config.resources[0].clone();
    for (id, title, kind, workspace) in [
        ("win", "Windows 11 with everything for accounting", ResourceKind::Desktop, "demo"),
        ("mail", "Mail", ResourceKind::RemoteApp, "demo"),
        ("scope", "Oscilloscope & <probe>", ResourceKind::RemoteApp, "lab"),
        ("bench", "Bench", ResourceKind::Desktop, "lab"),
    ] {
        let mut resource = desktop.clone();
        resource.id = id.parse().unwrap();
        resource.title = title.into();
        resource.kind = kind;
        resource.workspace = Some(workspace.parse().unwrap());
        config.resources.push(resource);
    }
    let mut secret = desktop;
    secret.id = "secret".parse().unwrap();
    secret.title = "Somebody else's".into();
    secret.users = vec!["mallory".into()];
    config.resources.push(secret);
}

async fn subscriber() -> Subscriber {
    Subscriber::start_with(WorldSettings { adjust_broker: furnished, ..settings() }).await
}

/// A browser without a screen, that follows no link by itself.
struct Hand {
    http: Client,
    broker: String,
}

impl Hand {
    fn of(subscriber: &Subscriber) -> Self {
        let mut roots = subscriber.stage.world.roots().unwrap();
        roots.roots.extend(subscriber.issuer_roots().roots);
        let http = Client::builder()
            .tls_backend_preconfigured(TlsSettings::default().client(roots).unwrap())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .unwrap();
        Self { http, broker: subscriber.stage.world.broker_url().to_owned() }
    }

    async fn get(&self, url: &str, cookie: Option<&str>) -> Response {
        let mut request = self.http.get(url);
        if let Some(cookie) = cookie {
            request = request.header(COOKIE, cookie);
        }
        request.send().await.unwrap()
    }

    /// Begins a sign-in and lets the identity provider answer: the attempt's
    /// cookie, and the address that the answer leads to.
    async fn answered(&self) -> (String, Url) {
        let begun = self.get(&format!("{}/signin", self.broker), None).await;
        assert_eq!(begun.status(), StatusCode::SEE_OTHER);
        let cookie = cookies(&begun).remove(0);
        assert!(cookie.starts_with("__Host-ringway-signin="), "{cookie}");
        let asked: Url = begun.headers()[LOCATION].to_str().unwrap().parse().unwrap();
        let parameter = |name: &str| {
            asked.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        let callback = format!("{}/signin/callback", self.broker);
        assert_eq!(parameter("redirect_uri").as_ref(), Some(&callback));
        assert_eq!(parameter("client_id").as_deref(), Some(CLIENT_ID));
        assert_eq!(parameter("code_challenge_method").as_deref(), Some("S256"));
        assert!(!parameter("scope").unwrap().contains("offline_access"));
        assert!(parameter("nonce").unwrap().len() >= 43 && parameter("state").unwrap().len() >= 43);
        let answered = self.get(asked.as_str(), None).await;
        let back: Url = answered.headers()[LOCATION].to_str().unwrap().parse().unwrap();
        assert!(back.as_str().starts_with(&callback), "{back}");
        (cookie, back)
    }

    /// Whether that answer lets somebody in.
    async fn is_let_in(&self, back: &str, cookie: Option<&str>) -> bool {
        let response = self.get(back, cookie).await;
        let set = cookies(&response);
        assert!(set.iter().any(|one| one == "__Host-ringway-signin="), "used up: {set:?}");
        let session = set.iter().any(|one| one.starts_with(".ASPXAUTH=rwf1."));
        let to_tiles = response.headers().get(LOCATION).is_some_and(|to| to == "/");
        assert_eq!(session, to_tiles);
        assert_eq!(session, !response.status().is_client_error(), "{response:?}");
        session
    }
}

/// Name and value of each cookie that is set.
fn cookies(response: &Response) -> Vec<String> {
    let set = response.headers().get_all(SET_COOKIE).iter();
    set.map(|one| one.to_str().unwrap().split(';').next().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn step02_the_page_signs_in_once_for_who_began_it() {
    let subscriber = subscriber().await;
    let hand = Hand::of(&subscriber);
    let (cookie, back) = hand.answered().await;
    let let_in = hand.get(back.as_str(), Some(&cookie)).await;
    assert_eq!(let_in.headers()[LOCATION], "/");
    let session = cookies(&let_in).remove(0);
    let page = hand.get(&hand.broker, Some(&session)).await.text().await.unwrap();
    assert!(page.contains(USER) && page.contains("Demo Desktop"), "{page}");
    assert!(!page.contains("Somebody else"), "{page}");
    assert!(!hand.is_let_in(back.as_str(), Some(&cookie)).await, "the code was used");
    subscriber.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_another_sign_in_lets_nobody_in() {
    let subscriber = subscriber().await;
    let hand = Hand::of(&subscriber);
    let (_, back) = hand.answered().await;
    assert!(!hand.is_let_in(back.as_str(), None).await, "not begun here");
    let (own, _) = hand.answered().await;
    let (_, others) = hand.answered().await;
    assert!(!hand.is_let_in(others.as_str(), Some(&own)).await, "another state");
    let forged = format!("{own}A");
    assert!(!hand.is_let_in(others.as_str(), Some(&forged)).await);

    let with = |back: &Url, name: &str, value: &str| {
        let pairs: Vec<_> =
            back.query_pairs().into_owned().filter(|(key, _)| key != name).collect();
        let mut changed = back.clone();
        changed.query_pairs_mut().clear().extend_pairs(pairs).append_pair(name, value);
        changed.to_string()
    };
    for (name, value) in
        [("iss", "https://evil.example"), ("error", "access_denied"), ("code", "guess")]
    {
        let (cookie, back) = hand.answered().await;
        assert!(!hand.is_let_in(&with(&back, name, value), Some(&cookie)).await, "{name}");
    }
    let (cookie, back) = hand.answered().await;
    let elsewhere = with(&back, "redirect", "https://evil.example/");
    assert!(hand.is_let_in(&elsewhere, Some(&cookie)).await, "and it leads to the tiles");
    let bare = format!("{}/signin/callback", hand.broker);
    assert!(!hand.is_let_in(&bare, Some(&cookie)).await);
    subscriber.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_and_finds_the_tiles_by_keyboard_and_on_a_phone() {
    if !available(PROGRAMS) {
        return;
    }
    let subscriber = subscriber().await;
    let url = format!("{}/", subscriber.stage.world.broker_url());
    let browser = Chromium::start().await;
    browser.show(1100, 800, "light").await;
    browser.open(&url).await;
    browser.picture("feed-page-door").await;
    browser.tab_until("document.activeElement.matches('a.primary')").await;
    browser.press(ENTER).await;
    browser.until("document.querySelectorAll('.tile').length === 5").await;
    assert_eq!(browser.url().await, url);
    let text = browser.look("document.body.innerText").await.to_string();
    for part in [USER, "Office", "Laboratory", "Demo Desktop", "Oscilloscope & <probe>"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    assert!(!text.contains("Somebody else"), "{text}");
    browser.until("[...document.images].every(i => i.complete && i.naturalWidth > 0)").await;
    browser.picture("feed-page-light").await;

    let presses = browser.tab_until("document.activeElement.closest('.tile') !== null").await;
    assert!(presses <= 4, "{presses} times Tab to the first tile");
    let outline = "getComputedStyle(document.activeElement).outlineStyle";
    assert_eq!(browser.look(outline).await, json!("solid"), "the focus can be seen");
    browser.tab_until("document.activeElement.matches('[data-copy]')").await;
    browser.press(ENTER).await;
    browser
        .until("document.getElementById('status').textContent.includes('ringway connect')")
        .await;
    let link = browser.look("document.querySelector('.tile a[download]').href").await;
    let session = format!(".ASPXAUTH={}", browser.cookie(".ASPXAUTH").await);
    let hand = Hand::of(&subscriber);
    let file = hand.get(link.as_str().unwrap(), Some(&session)).await;
    assert_eq!(file.headers()[CONTENT_TYPE], "application/x-rdp");

    browser.show(360, 780, "light").await;
    let fits = "document.documentElement.scrollWidth <= 360";
    assert_eq!(browser.look(fits).await, json!(true), "nothing sticks out");
    let large = "[...document.querySelectorAll('.button')].every(b => b.offsetHeight >= 44)";
    assert_eq!(browser.look(large).await, json!(true), "a thumb finds every button");
    browser.picture("feed-page-phone").await;
    let ground = "getComputedStyle(document.body).backgroundColor";
    let light = browser.look(ground).await;
    browser.show(360, 780, "dark").await;
    assert_ne!(browser.look(ground).await, light);
    browser.show(1100, 800, "dark").await;
    browser.picture("feed-page-dark").await;

    browser.look("document.querySelector('form[action=\"/signout\"] button').click()").await;
    browser.until("document.querySelector('.door') !== null").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    drop(browser);
    subscriber.end().await;
}
