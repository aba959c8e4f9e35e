//! `ringway login` and `ringway logout`.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::callback::Callback;
use super::code::Attempt;
use super::provider::{ClientFacts, Provider, Tokens};
use super::session::find_provider;
use super::store::{Login, Logins};
use super::{LoginError, device};
use crate::core::clock::UnixMillis;
use crate::core::codes::curb;
use crate::dial::http::HttpsClient;
use crate::dial::{DialLimits, Endpoint, Purpose};
use crate::tls::identity::read_roots;
use crate::tls::settings::TlsSettings;
use crate::wire::feed::{Discovery, Feed};

/// For people who have to look for a password.
const BROWSER_TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of the workspace, e.g. https://broker.example:8443
    #[arg(value_name = "URL", required_unless_present = "status")]
    broker: Option<Endpoint>,
    /// Sign in on another device, by entering a code there
    #[arg(long)]
    device: bool,
    /// Print the address to sign in at, and do not open a browser
    #[arg(long)]
    no_browser: bool,
    /// Trust this CA for the broker [default: those of the public web]
    #[arg(long, value_name = "PEM")]
    ca: Option<PathBuf>,
    /// Trust this CA for the identity provider [default: those of the public web]
    #[arg(long, value_name = "PEM")]
    issuer_ca: Option<PathBuf>,
    /// Say where you are signed in, and for how long. With a URL: exits with 3
    /// when that is over
    #[arg(long, conflicts_with_all = ["device", "no_browser", "ca", "issuer_ca"])]
    status: bool,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, clap::Args)]
pub struct LogoutArgs {
    /// Address of the workspace
    #[arg(value_name = "URL")]
    broker: Endpoint,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, clap::Args)]
struct CommonArgs {
    /// Where sign-ins are stored [default: ~/.local/state/ringway/logins]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let logins = Logins::open(args.common.state_dir.as_deref())?;
    let Some(broker) = args.broker.clone().filter(|_| !args.status) else {
        return status(&logins, args.broker.as_ref(), args.common.json);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let login = runtime.block_on(sign_in(&args, &logins, broker))?;
    let now = UnixMillis::now();
    if args.common.json {
        println!("{}", json!({ "event": "signed_in", "login": describe(&login, now) }));
    } else {
        println!("Signed in at {} as {} ({}).", login.broker, login.user, lasts(&login, now));
        println!("Next: ringway subscribe {}", login.broker);
    }
    Ok(ExitCode::SUCCESS)
}

async fn sign_in(args: &Args, logins: &Logins, broker: Endpoint) -> Result<Login, LoginError> {
    let https = |roots| -> Result<HttpsClient, LoginError> {
        Ok(HttpsClient::new(TlsSettings::default().client(roots)?, DialLimits::default())?)
    };
    let at_broker = https(read_roots(args.ca.as_deref())?)?;
    let url = broker.url("/api/feed/discovery");
    let discovery: Discovery = at_broker.get_json(Purpose::DISCOVER, &url, None).await?;
    let client = ClientFacts::told_by(&discovery)?;
    let at_issuer = https(read_roots(args.issuer_ca.as_deref())?)?;
    let provider = Provider::discover(at_issuer, client.clone()).await?;
    let tokens = if args.device {
        on_another_device(&provider, args.common.json).await?
    } else {
        in_a_browser(&provider, args).await?
    };
    let now = UnixMillis::now();
    tracing::info!(step = 2, %broker, "Signed in at the identity provider");

    // Whether the broker believes it is better known now than at the first use.
    let bearer = Some(tokens.access_token.expose());
    let feed: Feed = at_broker.get_json(Purpose::FEED, &broker.url("/api/feed"), bearer).await?;
    let _others_wait = logins.lock(&broker).await?;
    let gateways = logins.read(&broker).ok().flatten().map(|old| old.gateways);
    let issuer_ca = args.issuer_ca.as_ref().map(|path| path.canonicalize().unwrap_or(path.clone()));
    let login = Login {
        broker: broker.to_string(),
        workspace: curb(&discovery.workspace),
        user: curb(&feed.user),
        client,
        issuer_ca,
        access_token: tokens.access_token,
        refresh_token: tokens.refresh_token,
        expires_at: now.plus_ms(tokens.expires_in_s.saturating_mul(1_000)),
        gateways: gateways.unwrap_or_default(),
    };
    logins.write(&login)?;
    Ok(login)
}

async fn in_a_browser(provider: &Provider, args: &Args) -> Result<Tokens, LoginError> {
    let callback = Callback::open().await?;
    let attempt = Attempt::new(provider, callback.uri().to_owned())?;
    if args.common.json {
        println!("{}", json!({ "event": "open", "url": attempt.url() }));
    } else {
        println!("Sign in with your browser on this machine:\n\n  {}\n", attempt.url());
    }
    if !args.no_browser && !args.common.json {
        open_browser(attempt.url());
    }
    let code = callback.wait(&attempt, BROWSER_TIMEOUT).await?;
    provider.redeem(&code, &attempt).await
}

/// Opens the user's browser, where there is a screen for it.
fn open_browser(url: &str) {
    let has_screen = ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    if !has_screen || !std::io::stdout().is_terminal() {
        return;
    }
    let mut command = Command::new("xdg-open");
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Err(error) = command.spawn() {
        tracing::debug!(%error, "Cannot open a browser");
    }
}

async fn on_another_device(provider: &Provider, as_json: bool) -> Result<Tokens, LoginError> {
    let authorization = provider.ask_device().await?;
    let (page, code) = (curb(&authorization.verification_uri), curb(&authorization.user_code));
    if as_json {
        let event = json!({
            "event": "enter_code", "url": page, "code": code,
            "url_with_code": authorization.verification_uri_complete.as_deref().map(curb),
            "expires_in_s": authorization.expires_in,
        });
        println!("{event}");
    } else {
        println!("On any device, open\n\n  {page}\n\nand enter the code\n\n  {code}\n");
        println!("Do so only if it was you who ran this command.");
    }
    device::wait(provider, &authorization).await
}

fn status(logins: &Logins, broker: Option<&Endpoint>, as_json: bool) -> anyhow::Result<ExitCode> {
    let now = UnixMillis::now();
    let found = match broker {
        Some(broker) => logins.read(broker)?.into_iter().collect(),
        None => logins.all()?,
    };
    if as_json {
        let described: Vec<_> = found.iter().map(|login| describe(login, now)).collect();
        println!("{}", json!({ "logins": described }));
    } else if found.is_empty() {
        let broker = broker.map_or("URL".to_owned(), ToString::to_string);
        println!("You are not signed in; run: ringway login {broker}");
    }
    for login in found.iter().filter(|_| !as_json) {
        let Login { broker, workspace, user, .. } = login;
        println!("{broker}  {workspace}  {user}  {}", lasts(login, now));
    }
    let is_over = |login: &Login| !login.is_alive(now) && login.refresh_token.is_none();
    let asked_and_over = broker.is_some() && found.iter().all(is_over);
    Ok(if asked_and_over { ExitCode::from(3) } else { ExitCode::SUCCESS })
}

fn lasts(login: &Login, now: UnixMillis) -> String {
    let minutes = login.expires_at.since_ms(now) / 60_000;
    match (&login.refresh_token, login.is_alive(now)) {
        (Some(_), _) => "renewed when it is used".into(),
        (None, true) => format!("for {minutes} more minutes"),
        (None, false) => format!("over; run: ringway login {}", login.broker),
    }
}

fn describe(login: &Login, now: UnixMillis) -> Value {
    json!({
        "broker": login.broker, "workspace": login.workspace, "user": login.user,
        "issuer": login.client.issuer, "expires_at": login.expires_at,
        "alive": login.is_alive(now), "renewable": login.refresh_token.is_some(),
    })
}

pub fn logout(args: LogoutArgs) -> anyhow::Result<ExitCode> {
    let logins = Logins::open(args.common.state_dir.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let was_signed_in = runtime.block_on(forget(&logins, &args.broker))?;
    let broker = &args.broker;
    if args.common.json {
        println!("{}", json!({ "broker": broker.to_string(), "was_signed_in": was_signed_in }));
    } else if was_signed_in {
        println!("Signed out at {broker}. Your browser may still be signed in at the provider.");
    } else {
        println!("You were not signed in at {broker}.");
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes the tokens here, and makes them worthless at the provider if it can
/// be reached.
async fn forget(logins: &Logins, broker: &Endpoint) -> Result<bool, LoginError> {
    let _others_wait = logins.lock(broker).await?;
    // What cannot be read can still be removed.
    let login = logins.read(broker).ok().flatten();
    let was_signed_in = logins.remove(broker)?;
    if let Some((login, token)) = login.as_ref().and_then(|l| Some((l, l.refresh_token.as_ref()?)))
    {
        let revoked = async { find_provider(login).await?.revoke(token).await };
        if let Err(problem) = revoked.await {
            tracing::warn!(%broker, %problem, "Cannot tell the provider; the sign-in ends by itself");
        }
    }
    Ok(was_signed_in)
}
