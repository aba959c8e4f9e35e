//! The command: once, or (`--watch`) until it is stopped.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::{SubscribeError, SubscribeSettings, Subscription, fetch};
use crate::cli::duration::parse_ms;
use crate::connect::token::TokenArgs;
use crate::core::backoff::Backoff;
use crate::dial::{DialLimits, Endpoint};
use crate::tls::identity::{read_chain, read_roots};
use crate::tls::settings::TlsSettings;

/// After a failure; doubles up to the interval.
const RETRY_BASE_MS: u64 = 5_000;
/// Nobody has to look more often.
const INTERVAL_MS_MIN: u64 = 10_000;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of the workspace, e.g. https://broker.example:8443
    #[arg(value_name = "URL")]
    broker: Endpoint,
    #[command(flatten)]
    token: TokenArgs,
    /// Where to store the files
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Trust this CA for the broker, and as issuer of signers [default: the
    /// public web's, and any signer]
    #[arg(long, value_name = "PEM")]
    ca: Option<PathBuf>,
    /// Store only files signed by this certificate or CA [default: --ca]
    #[arg(long, value_name = "PEM")]
    trust_signer: Option<PathBuf>,
    /// Go on and keep the files current: look again about every TIME, such as
    /// 15m or 1h
    #[arg(
        long, value_name = "TIME", num_args = 0..=1, require_equals = true,
        default_missing_value = "1h", value_parser = parse_interval_ms
    )]
    watch: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_interval_ms(text: &str) -> Result<u64, String> {
    match parse_ms(text)? {
        ms if ms < INTERVAL_MS_MIN => Err("not more often than every 10s".into()),
        ms => Ok(ms),
    }
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let signers = match args.trust_signer.as_ref().or(args.ca.as_ref()) {
        Some(path) => read_chain(path)?,
        None => Vec::new(),
    };
    let settings = SubscribeSettings {
        broker: args.broker.clone(),
        token: args.token.for_broker(&args.broker)?,
        out: args.out.clone(),
        roots: read_roots(args.ca.as_deref())?,
        signers,
        tls: TlsSettings::default(),
        dial: DialLimits::default(),
        timeline: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // The first time decides: what cannot work ends here.
        print(&fetch(&settings).await?, args.json);
        match args.watch {
            None => Ok(ExitCode::SUCCESS),
            Some(interval_ms) => watch(&args, settings, interval_ms).await,
        }
    })
}

/// Looks again and again, and prints what is new.
async fn watch(
    args: &Args,
    mut settings: SubscribeSettings,
    interval_ms: u64,
) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut backoff = Backoff::new(RETRY_BASE_MS.min(interval_ms), interval_ms);
    let mut wait_ms = pause_ms(interval_ms, draw());
    loop {
        let again = async {
            sleep(Duration::from_millis(wait_ms)).await;
            // Somebody may have signed in again meanwhile.
            settings.token = args.token.for_broker(&args.broker)?;
            anyhow::Ok(fetch(&settings).await)
        };
        let outcome = tokio::select! {
            outcome = again => outcome,
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
        };
        wait_ms = match outcome {
            Ok(Ok(subscription)) => {
                if subscription.is_news() {
                    print(&subscription, args.json);
                }
                backoff.reset();
                pause_ms(interval_ms, draw())
            }
            Ok(Err(error)) => {
                tracing::warn!("Cannot look for news: {error}");
                backoff.next_delay_ms(draw(), wish_ms(&error))
            }
            Err(error) => {
                tracing::warn!("Cannot look for news: {error:#}");
                backoff.next_delay_ms(draw(), None)
            }
        };
    }
}

/// The interval, give or take a tenth: those who began together part.
fn pause_ms(interval_ms: u64, draw: u64) -> u64 {
    let tenth = interval_ms / 10;
    interval_ms.saturating_sub(tenth).saturating_add(draw % (2 * tenth + 1))
}

/// How long the broker asked us to wait.
fn wish_ms(error: &SubscribeError) -> Option<u64> {
    match error {
        SubscribeError::Dial(error) => error.refusal()?.retry_after_ms,
        _ => None,
    }
}

fn draw() -> u64 {
    let mut bytes = [0; 8];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => u64::MAX / 2, // without jitter then
    }
}

fn print(subscription: &Subscription, as_json: bool) {
    if as_json {
        println!("{}", json!(subscription));
        return;
    }
    println!("Workspace {}, {}", subscription.workspace, subscription.user);
    let files = &subscription.files;
    if files.is_empty() {
        println!("Nothing is assigned to you; ask the operator.");
    }
    let width = files.iter().map(|file| file.title.chars().count()).max().unwrap_or_default();
    for file in files {
        println!("  {:width$}  {:11}  {}", file.title, file.kind.name(), file.path.display());
    }
    for path in &subscription.removed {
        println!("  removed {}", path.display());
    }
    for path in &subscription.left_behind {
        println!("  kept {}, which is not current: somebody changed it", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_an_interval_give_or_take_a_tenth() {
        for draw in [0, 1, 12_345, u64::MAX] {
            assert!((9_000..=11_000).contains(&pause_ms(10_000, draw)), "{draw}");
        }
        assert_ne!(pause_ms(10_000, 0), pause_ms(10_000, 1));
    }

    #[test]
    fn an_interval_is_not_short() {
        assert_eq!(parse_interval_ms("15m"), Ok(900_000));
        assert!(parse_interval_ms("9s").is_err());
        assert!(parse_interval_ms("often").is_err());
    }
}
