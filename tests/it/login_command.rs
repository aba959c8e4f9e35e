//! `ringway login` against a real provider (step 2), and what `subscribe` and
//! `connect` make of it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use ringway::connect::login::session::StoredLogin;
use ringway::connect::login::store::Logins;
use ringway::core::clock::UnixMillis;
use ringway::core::codes::Code;
use ringway::demo::world::WorldSettings;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::browser::Browser;
use crate::support::oidc_provider::OidcProvider;
use crate::support::process::Process;
use crate::support::programs::ringway;
use crate::support::stage::{Stage, settings, wish};
use crate::support::targets::Echo;
use crate::support::wait::{PATIENCE, until};

/// A broker whose users sign in at a real provider, and a user with a terminal.
struct Desk {
    stage: Stage,
    provider: OidcProvider,
    folder: TempDir,
}

impl Desk {
    async fn open() -> Option<Self> {
        let provider = OidcProvider::start().await?;
        let settings = WorldSettings {
            gateways: 1,
            identity: provider.identity(),
            adjust_broker: |broker| broker.pools[0].require_amr = vec!["mfa".into()],
            ..settings()
        };
        let stage = Stage::start_with_host(settings, Echo).await;
        Some(Self { stage, provider, folder: tempfile::tempdir().unwrap() })
    }

    fn broker(&self) -> &str {
        self.stage.world.broker_url()
    }

    fn logins_folder(&self) -> PathBuf {
        self.folder.path().join("logins")
    }

    /// A command of this user, with what it needs to trust and where its
    /// sign-ins are.
    fn command(&self, name: &str) -> Command {
        let mut command = ringway();
        command.env_remove("RINGWAY_TOKEN").env("RINGWAY_LOG", "warn");
        command.arg(name).arg("--state-dir").arg(self.logins_folder());
        command
    }

    fn login(&self) -> Command {
        let mut command = self.command("login");
        command.args([self.broker(), "--json", "--ca"]).arg(self.stage.world.ca_file().unwrap());
        command.arg("--issuer-ca").arg(self.provider.ca_file());
        command
    }

    /// Runs `ringway login`, signs in where it says, and returns what it says
    /// then.
    async fn sign_in(&self, user: &str, extra: &[&str]) -> Value {
        let mut command = self.login();
        command.args(extra);
        let mut process = Process::start(self.folder.path(), "login", &command);
        until("it says where to sign in", || event(&process, "url").is_some()).await;
        let event_of = |key| event(&process, key);
        let told = event_of("url").unwrap();
        let url = told["url_with_code"].as_str().or(told["url"].as_str()).unwrap();
        let mut browser = Browser::of(user, self.provider.ca.client_tls());
        browser.visit(url).await;
        until("it ends", || !process.is_running()).await;
        let signed_in = event(&process, "login");
        signed_in.unwrap_or_else(|| panic!("{}", process.last_words()))["login"].clone()
    }

    /// Runs a command to its end: its exit code, and what it printed.
    async fn run(&self, command: &Command) -> (Option<i32>, String) {
        let mut process = Process::start(self.folder.path(), "command", command);
        until("the command ends", || !process.is_running()).await;
        (process.wait(PATIENCE).unwrap().code(), process.printed())
    }

    fn subscribe(&self) -> Command {
        let mut command = self.command("subscribe");
        command.args([self.broker(), "--ca"]).arg(self.stage.world.ca_file().unwrap());
        command.arg("--out").arg(self.folder.path().join("desktops"));
        command
    }

    fn rdp_file(&self) -> PathBuf {
        self.folder.path().join("desktops/Demo Desktop.rdp")
    }

    fn stored(&self) -> (Logins, StoredLogin) {
        let logins = Logins::open(Some(&self.logins_folder())).unwrap();
        let stored = StoredLogin::of(logins.clone(), self.broker().parse().unwrap()).unwrap();
        (logins, stored)
    }
}

/// The first JSON object that the process printed with such a key.
fn event(process: &Process, key: &str) -> Option<Value> {
    let printed = process.printed();
    let mut objects = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    objects.find(|object| object.get(key).is_some() && object.get("message").is_none())
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn step02_a_login_in_the_browser_is_what_subscribe_and_connect_use() {
    let Some(desk) = Desk::open().await else { return };
    let (status, printed) = desk.run(&desk.subscribe()).await;
    assert!(status == Some(1) && printed.contains("run: ringway login https://"), "{printed}");

    let signed_in = desk.sign_in("ann", &["--no-browser"]).await;
    assert_eq!((&signed_in["user"], &signed_in["renewable"]), (&"ann".into(), &true.into()));
    assert_eq!(mode(&desk.logins_folder()), 0o700);
    let files: Vec<_> = std::fs::read_dir(desk.logins_folder()).unwrap().collect();
    for file in files {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }

    let (status, printed) = desk.run(&desk.subscribe()).await;
    assert!(status == Some(0) && desk.rdp_file().exists(), "{printed}");
    let mut connect = desk.command("connect");
    connect.arg(desk.rdp_file()).args(["--json", "--once", "--ca"]);
    connect.arg(desk.stage.world.ca_file().unwrap());
    let mut connect = Process::start(desk.folder.path(), "connect", &connect);
    until("it listens", || event(&connect, "address").is_some()).await;
    let address = event(&connect, "address").unwrap();
    let mut client = TcpStream::connect(address["address"].as_str().unwrap()).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    client.read_to_end(&mut echoed).await.unwrap();
    assert_eq!(echoed, b"hello", "{}", connect.last_words());
    until("the session is over", || !connect.is_running()).await;

    let mut logout = desk.command("logout");
    logout.arg(desk.broker());
    let (status, printed) = desk.run(&logout).await;
    assert!(status == Some(0) && printed.contains("Signed out"), "{printed}");
    let mut status_of = desk.command("login");
    status_of.args([desk.broker(), "--status"]);
    let (status, printed) = desk.run(&status_of).await;
    assert!(status == Some(3) && printed.contains("not signed in"), "{printed}");
    desk.stage.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn step02_a_login_on_another_device_needs_only_a_code() {
    let Some(desk) = Desk::open().await else { return };
    let signed_in = desk.sign_in("ann", &["--device"]).await;
    assert_eq!(signed_in["user"], "ann");
    let (status, printed) = desk.run(&desk.subscribe()).await;
    assert!(status == Some(0) && desk.rdp_file().exists(), "{printed}");
    desk.stage.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_asks_for_a_second_factor_refuses_a_password_alone() {
    let Some(desk) = Desk::open().await else { return };
    let place = async |user: &str| {
        desk.sign_in(user, &["--no-browser"]).await;
        let token = desk.stored().1.current().await.unwrap();
        let entry = desk.stage.entry();
        desk.stage.place_at(entry, Some(token.expose()), &wish("desktop")).await
    };
    assert_eq!(place("weak-ann").await.unwrap_err().code, Code::AuthenticationTooWeak);
    assert!(place("ann").await.is_ok());
    desk.stage.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_commands_one_renews_the_sign_in() {
    let Some(desk) = Desk::open().await else { return };
    desk.sign_in("ann", &["--no-browser"]).await;
    let (logins, stored) = desk.stored();
    let broker = desk.broker().parse().unwrap();
    let mut login = logins.read(&broker).unwrap().unwrap();
    let old = login.access_token.clone();
    login.expires_at = UnixMillis::now().plus_ms(1_000);
    logins.write(&login).unwrap();
    // Refresh tokens of this provider work once: a second use ends them all.
    let renewed = futures_util::future::join_all((0..8).map(|_| stored.current())).await;
    let renewed: Vec<_> = renewed.into_iter().map(Result::unwrap).collect();
    assert!(renewed.iter().all(|token| *token == renewed[0] && *token != old));
    assert_eq!(desk.provider.grants("refresh_token").await, 1);
    let (status, printed) = desk.run(&desk.subscribe()).await;
    assert_eq!(status, Some(0), "{printed}");

    // The provider does not know the refresh token any more.
    let mut login = logins.read(&broker).unwrap().unwrap();
    login.expires_at = UnixMillis(0);
    login.refresh_token = Some("stale".into());
    logins.write(&login).unwrap();
    let over = stored.current().await.unwrap_err().to_string();
    assert!(over.contains("is over (invalid_grant); run: ringway login https://"), "{over}");
    desk.stage.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_goes_only_to_gateways_that_its_broker_named() {
    let Some(desk) = Desk::open().await else { return };
    desk.sign_in("ann", &["--no-browser"]).await;
    let file = desk.folder.path().join("other.rdp");
    std::fs::write(&file, "gatewayhostname:s:gw.elsewhere.example:443\r\n").unwrap();
    let mut connect = desk.command("connect");
    connect.arg(&file).arg("--allow-unsigned");
    let (status, printed) = desk.run(&connect).await;
    assert_eq!(status, Some(1));
    assert!(printed.contains("none of your sign-ins is for gw.elsewhere.example:443"), "{printed}");
    desk.stage.shutdown().await;
}
