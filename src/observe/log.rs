//! Logs: to standard error, so that standard output stays for results.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// The demo's RDP host warns of every picture that takes it over 10 ms.
const DEFAULT_FILTER: &str = "info,ironrdp_server=error";

/// Starts logging. The level comes from `RINGWAY_LOG` (`info` when unset; the
/// syntax is tracing's, e.g. `ringway::gateway=debug,info`); without a
/// terminal each line is one JSON object.
///
/// A second call in the same process changes nothing.
pub fn start() {
    let filter =
        EnvFilter::try_from_env("RINGWAY_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _already_started = if std::io::stderr().is_terminal() {
        builder.with_target(false).compact().try_init()
    } else {
        builder.json().flatten_event(true).with_ansi(false).try_init()
    };
}
