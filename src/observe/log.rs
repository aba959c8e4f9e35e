//! Logs: to standard error, so that standard output stays for results.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

/// The demo's RDP host warns of every picture that takes it over 10 ms.
const DEFAULT_FILTER: &str = "info,ironrdp_server=error";
/// Goes before what a configuration says.
const LEVEL_VARIABLE: &str = "RINGWAY_LOG";

type Exchange = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

/// Puts another filter into the running subscriber.
static EXCHANGE: OnceLock<Exchange> = OnceLock::new();

/// Starts logging. The level comes from `RINGWAY_LOG` (`info` when unset; the
/// syntax is tracing's, e.g. `ringway::gateway=debug,info`); without a
/// terminal each line is one JSON object.
///
/// A second call in the same process changes nothing.
pub fn start() {
    let filter = EnvFilter::try_from_env(LEVEL_VARIABLE).unwrap_or_else(|_| default_filter());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let (started, exchange): (_, Exchange) = if std::io::stderr().is_terminal() {
        let builder = builder.with_target(false).compact().with_filter_reloading();
        let handle = builder.reload_handle();
        (builder.try_init(), Box::new(move |filter| handle.reload(filter).is_ok()))
    } else {
        let builder = builder.json().flatten_event(true).with_ansi(false).with_filter_reloading();
        let handle = builder.reload_handle();
        (builder.try_init(), Box::new(move |filter| handle.reload(filter).is_ok()))
    };
    if started.is_ok() {
        // The one subscriber of the process is ours; nobody was here before.
        let _first = EXCHANGE.set(exchange);
    }
}

/// Whether a text is a level or a list of targets with levels.
///
/// # Errors
/// What is wrong with it.
pub fn check_level(level: &str) -> Result<(), String> {
    EnvFilter::builder().parse(level).map(drop).map_err(|error| error.to_string())
}

/// Logs as much as a configuration says, from now on; as much as by default
/// when it says nothing. `RINGWAY_LOG`, where it is set, stays in force.
pub fn set_level(level: Option<&str>) {
    if std::env::var_os(LEVEL_VARIABLE).is_some() {
        if let Some(level) = level {
            tracing::debug!(level, "{LEVEL_VARIABLE} is set and goes before [log]");
        }
        return;
    }
    let filter = match level.map(|level| EnvFilter::builder().parse(level)) {
        Some(Ok(filter)) => filter,
        // Checked when the file was read.
        Some(Err(error)) => return tracing::error!(%error, "The log level cannot be used"),
        None => default_filter(),
    };
    if EXCHANGE.get().is_some_and(|exchange| !exchange(filter)) {
        tracing::error!("The log level could not be changed");
    }
}

fn default_filter() -> EnvFilter {
    EnvFilter::new(DEFAULT_FILTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_targets_are_told_from_nonsense() {
        for good in ["info", "WARN", "off", "info,ringway::broker=debug"] {
            assert_eq!(check_level(good), Ok(()), "{good}");
        }
        for bad in ["loud=very", "ringway=loud", "info,,=x"] {
            assert!(check_level(bad).is_err(), "{bad}");
        }
    }
}
