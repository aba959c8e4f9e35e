//! Headless Chromium, driven over WebDriver (W3C WebDriver 2) as a person would:
//! by keyboard and by what is on the screen.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::Process;
use super::wait::{LOOK_EVERY, poll};

/// What has to be installed.
pub const PROGRAMS: &[&str] = &["chromium", "chromedriver", "setpriv"];
pub const TAB: char = '\u{e004}';
pub const ENTER: char = '\u{e007}';

/// A busy machine takes its time over starting a browser.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Chromium {
    http: reqwest::Client,
    /// `http://127.0.0.1:PORT/session/ID`
    session: String,
    _driver: Process,
    _folder: TempDir,
}

impl Chromium {
    /// A browser that accepts certificates of any CA: whom our own clients
    /// trust is tested elsewhere.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut program = Command::new("chromedriver");
        program.arg("--port=0");
        let driver = Process::start(folder.path(), "chromedriver", &program);
        let port = poll(PATIENCE, || {
            let printed = driver.printed();
            let (_, rest) = printed.split_once("started successfully on port ")?;
            rest.split_once('.').and_then(|(port, _)| port.parse::<u16>().ok())
        });
        let port = port.unwrap_or_else(|| panic!("no port\n{}", driver.last_words()));
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let profile = folder.path().join("profile");
        let options = json!({ "args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--disable-background-networking", "--no-first-run", "--window-size=1100,800",
            format!("--user-data-dir={}", profile.display()),
        ]});
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "acceptInsecureCerts": true,
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
        }}});
        let base = format!("http://127.0.0.1:{port}/session");
        let started = ask(http.post(&base).json(&capabilities)).await;
        let id = started["sessionId"].as_str().unwrap_or_else(|| panic!("{started}"));
        let session = format!("{base}/{id}");
        Self { http, session, _driver: driver, _folder: folder }
    }

    pub async fn open(&self, url: &str) {
        self.post("url", json!({ "url": url })).await;
    }

    pub async fn url(&self) -> String {
        self.get("url").await.as_str().unwrap().to_owned()
    }

    /// Presses and releases a key.
    pub async fn press(&self, key: char) {
        let strokes = ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key }));
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": strokes });
        self.post("actions", json!({ "actions": [keyboard] })).await;
    }

    /// Presses Tab until the focus is where an expression says; how often.
    pub async fn tab_until(&self, expression: &str) -> u32 {
        for presses in 1..=30 {
            self.press(TAB).await;
            if self.look(expression).await == json!(true) {
                return presses;
            }
        }
        panic!("Tab never reaches {expression}");
    }

    /// The value of a script's expression on the page.
    pub async fn look(&self, expression: &str) -> Value {
        let script = format!("return {expression};");
        self.post("execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// Waits until an expression is true. The page may change meanwhile.
    pub async fn until(&self, expression: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.look(expression).await != json!(true) {
            let late = tokio::time::Instant::now() >= deadline;
            assert!(!late, "never: {expression} at {}", self.url().await);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A screen of that size, and light or dark as somebody likes it.
    pub async fn show(&self, width: u32, height: u32, scheme: &str) {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.command("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.command("Emulation.setEmulatedMedia", json!({ "features": [scheme] })).await;
    }

    /// Saves what is on the screen under `target`.
    pub async fn picture(&self, name: &str) -> PathBuf {
        let picture = self.get("screenshot").await;
        let png = STANDARD.decode(picture.as_str().unwrap()).unwrap();
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.png"));
        std::fs::write(&path, png).unwrap();
        path
    }

    /// The value of a cookie, also of one that scripts cannot see.
    pub async fn cookie(&self, name: &str) -> String {
        self.get(&format!("cookie/{name}")).await["value"].as_str().unwrap().to_owned()
    }

    /// What the browser complained about, such as a breach of the page's policy.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.post("se/log", json!({ "type": "browser" })).await;
        let entries = log.as_array().unwrap().iter();
        entries.map(|entry| entry["message"].to_string()).collect()
    }

    async fn command(&self, name: &str, parameters: Value) {
        self.post("goog/cdp/execute", json!({ "cmd": name, "params": parameters })).await;
    }

    async fn get(&self, what: &str) -> Value {
        ask(self.http.get(format!("{}/{what}", self.session))).await
    }

    async fn post(&self, what: &str, body: Value) -> Value {
        ask(self.http.post(format!("{}/{what}", self.session)).json(&body)).await
    }
}

impl Drop for Chromium {
    /// The driver ends its browser only when it is told to.
    fn drop(&mut self) {
        let rest = self.session.trim_start_matches("http://");
        let Some((address, path)) = rest.split_once('/') else { return };
        let Ok(mut stream) = std::net::TcpStream::connect(address) else { return };
        stream.set_read_timeout(Some(PATIENCE)).ok();
        let request =
            format!("DELETE /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        if stream.write_all(request.as_bytes()).is_ok() {
            stream.read_exact(&mut [0; 12]).ok(); // up to the status
        }
    }
}

async fn ask(request: reqwest::RequestBuilder) -> Value {
    let response = request.send().await.unwrap();
    let status = response.status();
    let mut answer: Value = response.json().await.unwrap();
    assert!(status.is_success(), "the driver says {status}: {answer}");
    answer["value"].take()
}
