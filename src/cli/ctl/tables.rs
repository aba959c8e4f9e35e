//! Answers for people: aligned columns, no colours, one line per thing.

use std::fmt::Write as _;

use super::{audit, histograms};
use crate::core::clock::UnixMillis;
use crate::core::health::{Fitness, HostCheck};
use crate::core::selection::{Explain, RttSource};
use crate::demo::style::Style;
use crate::wire::admin::{
    AdminResponse, AuditView, ConfigView, GatewayStatusView, RingView, SessionView, WorkerView,
};

/// The answer as text, with a newline at its end.
pub(crate) fn render(response: &AdminResponse) -> String {
    match response {
        AdminResponse::Status(status) => {
            let mut rows = vec![
                ("role", status.role.clone()),
                ("version", status.version.clone()),
                ("address", status.address.clone()),
                ("public url", status.public_url.clone()),
                ("up for", age(status.started_at)),
                ("hosts", status.hosts_connected.to_string()),
                ("gateways", status.gateways_connected.to_string()),
                ("sessions", status.sessions.to_string()),
                ("audit", trail(&status.audit)),
                ("audit head", status.audit.head.clone()),
            ];
            rows.extend(config(status.config.as_ref()));
            pairs(&rows)
        }
        AdminResponse::Hosts { hosts } => {
            let rows = hosts.iter().map(|host| {
                let state = match (host.connected, host.draining) {
                    (true, false) if Fitness::of(&host.checks) == Fitness::Unfit => "unhealthy",
                    (true, false) if host.paused => "passed over",
                    (true, false) => "ready",
                    (true, true) => "draining",
                    (false, false) => "away",
                    (false, true) => "away, draining",
                };
                let sessions = format!("{}/{}", host.sessions, host.sessions_max);
                let labels = host.labels.iter().map(ToString::to_string).collect::<Vec<_>>();
                vec![
                    host.host.to_string(),
                    host.pool.to_string(),
                    state.into(),
                    sessions,
                    health(&host.checks),
                    if labels.is_empty() { "-".into() } else { labels.join(" ") },
                ]
            });
            table(&["HOST", "POOL", "STATE", "SESSIONS", "HEALTH", "LABELS"], rows.collect())
        }
        AdminResponse::Assignments { assignments } => {
            let rows = assignments
                .iter()
                .map(|one| vec![one.pool.to_string(), one.user.clone(), one.host.to_string()]);
            table(&["POOL", "USER", "HOST"], rows.collect())
        }
        AdminResponse::Gateways { gateways } => {
            let rows = gateways.iter().map(|gateway| {
                vec![
                    gateway.gateway.to_string(),
                    gateway.url.clone(),
                    if gateway.draining { "draining" } else { "ready" }.into(),
                    format!("{}/{}", gateway.connections, gateway.capacity),
                    gateway.waiting.to_string(),
                    gateway.in_flight.to_string(),
                    format!("{} ms", gateway.age_ms),
                ]
            });
            let head = ["GATEWAY", "URL", "STATE", "CONNECTIONS", "WAITING", "PLACED", "REPORTED"];
            table(&head, rows.collect())
        }
        AdminResponse::Sessions { sessions } => {
            let rows = sessions.iter().map(|session| {
                vec![
                    session.session.to_string(),
                    or_dash(session.user.as_ref()),
                    or_dash(session.resource.as_ref()),
                    or_dash(session.host.as_ref()),
                    or_dash(session.gateway.as_ref()),
                    phase(session),
                    session.placed_at.map_or_else(|| "-".into(), age),
                ]
            });
            let head = ["SESSION", "USER", "RESOURCE", "HOST", "GATEWAY", "PHASE", "AGE"];
            table(&head, rows.collect())
        }
        AdminResponse::Explained { session, explain } => explained(session, explain),
        AdminResponse::Token(token) => format!("{}\n", token.token),
        AdminResponse::Tokens { tokens } => {
            let rows = tokens.iter().map(|token| {
                vec![
                    token.id.clone(),
                    token.role.as_str().to_owned(),
                    or_dash(token.pool.as_ref()),
                    if token.server_names.is_empty() {
                        "-".into()
                    } else {
                        token.server_names.join(" ")
                    },
                    token.uses_left.to_string(),
                    remaining(token.expires_at),
                ]
            });
            table(&["TOKEN", "ROLE", "POOL", "NAMES", "USES LEFT", "EXPIRES IN"], rows.collect())
        }
        AdminResponse::GatewayStatus(status) => gateway_status(status),
        AdminResponse::Relayed { sessions } => {
            let rows = sessions.iter().map(|session| {
                vec![
                    session.session.to_string(),
                    session.host.to_string(),
                    session.client_address.clone(),
                    session.worker.to_string(),
                    session.bytes_up.to_string(),
                    session.bytes_down.to_string(),
                    age(session.started_at),
                ]
            });
            let head = ["SESSION", "HOST", "CLIENT", "WORKER", "BYTES UP", "BYTES DOWN", "AGE"];
            table(&head, rows.collect())
        }
        AdminResponse::Judged { explain } => judged(explain),
        // `ctl histograms` draws them; this is for whoever asks in another way.
        AdminResponse::Histograms(view) => {
            let rows = view.measured.iter().map(|one| (one.measure.as_str(), one.us));
            histograms::table(rows, Style::PLAIN)
        }
        AdminResponse::Disconnected { live, pending, of_unknown_users } => {
            let mut text = format!("ended {live} live sessions and {pending} on their way\n");
            if *of_unknown_users > 0 {
                let _ = writeln!(
                    text,
                    "nobody knows whose {of_unknown_users} other sessions are; see: ringway ctl sessions"
                );
            }
            text
        }
        AdminResponse::Keys(keys) => {
            let state = |key: &Option<String>, what: &str, at: Option<UnixMillis>| {
                let in_s = at.map_or(0, |at| at.since_ms(UnixMillis::now()) / 1_000);
                key.as_ref().map_or_else(|| "-".into(), |key| format!("{key}, {what} in {in_s} s"))
            };
            pairs(&[
                ("signing", keys.signing.clone()),
                ("next", state(&keys.next, "signs", keys.next_signs_from)),
                ("retiring", state(&keys.retiring, "gone", keys.retired_at)),
            ])
        }
        AdminResponse::Audit { records } => {
            records.iter().map(|record| audit::line(record) + "\n").collect()
        }
        AdminResponse::Done => "done\n".into(),
        AdminResponse::Refused { refusal } => format!("{refusal}\n"),
        AdminResponse::Invalid { problem } => format!("{problem}\n"),
    }
}

/// What is wrong with a host; the details of all checks are in the JSON.
fn health(checks: &[HostCheck]) -> String {
    let failing: Vec<_> = checks
        .iter()
        .filter(|check| !check.ok)
        .map(|check| format!("{}: {}", check.name, check.detail))
        .collect();
    match (checks.is_empty(), failing.is_empty()) {
        (true, _) => "-".into(),
        (false, true) => "good".into(),
        (false, false) => failing.join("; "),
    }
}

fn trail(audit: &AuditView) -> String {
    match (&audit.problem, audit.lost) {
        (Some(problem), lost) => {
            format!("{problem}; {} records wait, {lost} are lost", audit.waiting)
        }
        (None, 0) => "written".into(),
        (None, lost) => format!("written; {lost} records are lost"),
    }
}

fn explained(session: &SessionView, explain: &Explain) -> String {
    let mut text = pairs(&[
        ("session", session.session.to_string()),
        ("user", or_dash(session.user.as_ref())),
        ("resource", or_dash(session.resource.as_ref())),
        ("client", or_dash(session.client_address.as_ref())),
        ("host", or_dash(session.host.as_ref())),
        ("gateway", or_dash(session.gateway.as_ref())),
        ("phase", phase(session)),
    ]);
    if !explain.lines.is_empty() {
        text.push('\n');
        text.push_str(&judged(explain));
    }
    text
}

fn judged(explain: &Explain) -> String {
    let dash = || "-".to_owned();
    let rows = explain.lines.iter().map(|line| {
        let source = line.rtt.map(|rtt| match rtt.source {
            RttSource::Client => "client",
            RttSource::Probe => "probe",
            RttSource::Entry => "entry",
        });
        vec![
            line.gateway.to_string(),
            line.rtt.map_or_else(dash, |rtt| format!("{:.1} ms", micros_as_ms(rtt.us))),
            source.map_or_else(dash, str::to_owned),
            line.rtt.map_or_else(dash, |rtt| duration(rtt.age_ms)),
            line.group_ms().map_or_else(dash, |(from_ms, to_ms)| format!("{from_ms}-{to_ms} ms")),
            format!("{}/{}", line.connections.saturating_sub(line.in_flight), line.capacity),
            line.in_flight.to_string(),
            line.words().to_owned(),
        ]
    });
    let head = ["GATEWAY", "RTT", "SOURCE", "AGE", "GROUP", "CONNECTIONS", "IN FLIGHT", "VERDICT"];
    let mut text = table(&head, rows.collect());
    if explain.left_out > 0 {
        text.push_str(&format!("and {} more that come after these\n", explain.left_out));
    }
    text.push_str(&format!("\n{}\n", explain.reason()));
    text
}

fn gateway_status(status: &GatewayStatusView) -> String {
    let sum = |of: fn(&WorkerView) -> u64| status.workers.iter().map(of).sum::<u64>().to_string();
    let mut rows = vec![
        ("gateway", status.gateway.to_string()),
        ("version", status.version.clone()),
        ("url", status.url.clone()),
        ("up for", age(status.started_at)),
        ("broker", if status.broker_connected { "connected" } else { "AWAY" }.into()),
        ("state", if status.draining { "draining" } else { "ready" }.into()),
        ("health", status.ailment.clone().unwrap_or_else(|| "good".into())),
        ("sessions", format!("{} on {} workers", status.sessions, status.workers.len())),
        ("waiting", status.waiting.to_string()),
        ("in the lobby", status.lobby_connections.to_string()),
        ("accepted", format!("{} ({} turned away)", status.accepted, status.turned_away)),
        ("accept pauses", status.accept_pauses.to_string()),
        ("handshakes", format!("{} ({} failed)", status.handshakes, status.handshakes_failed)),
        ("timeouts", status.timeouts.to_string()),
        ("bytes up", sum(|w| w.bytes_up)),
        ("bytes down", sum(|w| w.bytes_down)),
        ("held back", sum(|w| w.held_back)),
        ("arena overflows", sum(|w| w.arena_overflows)),
        ("output slots in use", sum(|w| w.slots_used)),
        ("ring", ring(&status.ring)),
    ];
    rows.extend(config(status.config.as_ref()));
    let mut text = pairs(&rows);
    for (title, counts) in [("REFUSED", &status.refusals), ("CLOSED", &status.close_reasons)] {
        if !counts.is_empty() {
            let rows = counts.iter().map(|(name, n)| vec![name.clone(), n.to_string()]);
            let _cannot_fail = write!(text, "\n{}", table(&[title, "TIMES"], rows.collect()));
        }
    }
    text
}

/// What is in force, what was refused, and what waits for a restart.
fn config(view: Option<&ConfigView>) -> Vec<(&'static str, String)> {
    let Some(view) = view else { return Vec::new() };
    let mut rows = vec![("config", format!("{}, loaded {} ago", view.file, age(view.loaded_at)))];
    if let Some(rejected) = &view.rejected {
        rows.push(("REJECTED", format!("{} ago; what was loaded stays", age(rejected.at))));
        rows.extend(rejected.problems.iter().map(|problem| ("", problem.clone())));
    }
    if !view.needs_restart.is_empty() {
        rows.push(("needs restart", view.needs_restart.join(", ")));
    }
    rows
}

fn ring(ring: &RingView) -> String {
    let receive = if ring.bounded_receive { "bounded receives" } else { "Linux 6.1 features" };
    let masked = if ring.masked { " (ring_features)" } else { "" };
    format!("{receive}{masked} on Linux {}", ring.kernel)
}

fn phase(session: &SessionView) -> String {
    match (&session.phase, &session.end) {
        (Some(phase), _) => format!("{phase:?}").to_lowercase(),
        (None, Some(end)) => format!("over: {end}"),
        (None, None) => "over".into(),
    }
}

fn micros_as_ms(us: u64) -> f64 {
    std::time::Duration::from_micros(us).as_secs_f64() * 1_000.0
}

fn or_dash(value: Option<&impl ToString>) -> String {
    value.map_or_else(|| "-".into(), ToString::to_string)
}

fn age(since: UnixMillis) -> String {
    duration(UnixMillis::now().since_ms(since))
}

fn remaining(until: UnixMillis) -> String {
    duration(until.since_ms(UnixMillis::now()))
}

/// The two largest units.
fn duration(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m {}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h {}m", s / 3_600, s / 60 % 60),
        _ => format!("{}d {}h", s / 86_400, s / 3_600 % 24),
    }
}

fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs.iter().fold(String::new(), |mut text, (name, value)| {
        let _cannot_fail = writeln!(text, "{name:width$}  {}", printable(value));
        text
    })
}

/// Names come from identity providers and machines: nothing that a terminal
/// would obey.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return "none\n".into();
    }
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let rows = rows.into_iter().map(|row| row.iter().map(|cell| printable(cell)).collect());
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns)
        .map(|column| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::selection::{ExplainLine, Remark, Rtt, Verdict};
    use crate::wire::admin::{HostView, RejectedView};

    #[test]
    fn columns_are_aligned() {
        let host = |name: &str, sessions, connected| HostView {
            host: name.parse().unwrap(),
            pool: "p".parse().unwrap(),
            connected,
            draining: false,
            paused: false,
            sessions,
            sessions_max: 10,
            labels: vec![],
            checks: vec![],
        };
        let check = |fatal, ok| HostCheck {
            name: "target".into(),
            fatal,
            ok,
            detail: "connection refused".into(),
        };
        let hosts = vec![
            HostView {
                labels: vec!["rack-1".parse().unwrap(), "gpu".parse().unwrap()],
                checks: vec![check(true, true)],
                ..host("a", 10, true)
            },
            host("longer-name", 0, false),
            HostView { checks: vec![check(true, false)], ..host("sick", 0, true) },
        ];
        assert_eq!(
            render(&AdminResponse::Hosts { hosts }),
            "HOST         POOL  STATE      SESSIONS  HEALTH                      LABELS\n\
             a            p     ready      10/10     good                        rack-1 gpu\n\
             longer-name  p     away       0/10      -                           -\n\
             sick         p     unhealthy  0/10      target: connection refused  -\n"
        );
        assert_eq!(render(&AdminResponse::Hosts { hosts: vec![] }), "none\n");
    }

    #[test]
    fn a_choice_is_explained_gateway_by_gateway_and_in_one_line() {
        let line = |gateway: &str, us, group, connections, verdict| ExplainLine {
            gateway: gateway.parse().unwrap(),
            rtt: Some(Rtt { us, age_ms: 61_000, source: RttSource::Client }),
            group: Some(group),
            connections,
            in_flight: 2,
            capacity: 100,
            verdict,
            remark: None,
        };
        let far = line("frankfurt-12", 24_000, 2, 2, Verdict::HigherGroup);
        let unmeasured = ExplainLine { rtt: None, group: None, ..far.clone() };
        let explain = Explain {
            lines: vec![
                line("gw-1", 3_460, 0, 7, Verdict::Chosen),
                line("gw-2", 812, 0, 9, Verdict::MoreConnections),
                far,
                ExplainLine {
                    gateway: "gw-4".parse().unwrap(),
                    remark: Some(Remark::Unreachable),
                    verdict: Verdict::Unmeasured,
                    ..unmeasured
                },
            ],
            left_out: 3,
        };
        assert_eq!(
            judged(&explain),
            "GATEWAY       RTT      SOURCE  AGE    GROUP     CONNECTIONS  IN FLIGHT  VERDICT\n\
             gw-1          3.5 ms   client  1m 1s  0-9 ms    5/100        2          chosen\n\
             gw-2          0.8 ms   client  1m 1s  0-9 ms    7/100        2          more connections\n\
             frankfurt-12  24.0 ms  client  1m 1s  20-29 ms  0/100        2          higher group\n\
             gw-4          -        -       -      -         0/100        2          unreachable\n\
             and 3 more that come after these\n\
             \n\
             gw-1: lowest group with room (0-9 ms), fewest of 2 there (7 connections)\n"
        );
    }

    #[test]
    fn a_rejected_configuration_is_shown_with_its_problems() {
        let at = UnixMillis::now();
        let problems = vec!["b.toml:3: broker.listen: is missing; add it".to_owned()];
        let view = ConfigView {
            file: "b.toml".into(),
            loaded_at: at,
            rejected: Some(RejectedView { at, problems }),
            needs_restart: vec!["broker.listen".into(), "broker.tls.chacha20".into()],
        };
        assert_eq!(
            pairs(&config(Some(&view))),
            "config         b.toml, loaded 0s ago\n\
             REJECTED       0s ago; what was loaded stays\n               \
             b.toml:3: broker.listen: is missing; add it\n\
             needs restart  broker.listen, broker.tls.chacha20\n"
        );
        assert!(config(None).is_empty());
    }

    #[test]
    fn a_name_cannot_command_the_terminal() {
        let rows = vec![vec!["a\x1b[2Jb".to_owned(), "x".to_owned()]];
        assert_eq!(table(&["USER", "X"], rows), "USER    X\na\u{fffd}[2Jb  x\n");
        assert_eq!(pairs(&[("user", "a\nb".to_owned())]), "user  a\u{fffd}b\n");
    }

    #[test]
    fn durations_show_two_units() {
        let texts = [59_999, 60_000, 3_661_000, 90_061_000].map(duration);
        assert_eq!(texts, ["59s", "1m 0s", "1h 1m", "1d 1h"]);
    }
}
