//! Every setting of every role: missing, mistyped, unknown, contradictory.

use std::collections::BTreeSet;

use super::document::{self, Node, Value as Written};
use super::*;

/// Every setting there is, each with a value that is right.
const FULL: &str = include_str!("tests/full.toml");

/// Without these no role can run. Those of list entries count as well.
const REQUIRED: [&str; 17] = [
    "broker.listen",
    "broker.public_url",
    "broker.state_dir",
    "broker.admin_tokens[0].name",
    "broker.admin_tokens[0].token_sha256",
    "broker.identity.static_tokens[0].user",
    "broker.identity.static_tokens[0].token_sha256",
    "broker.workspaces[0].name",
    "broker.pools[0].name",
    "broker.pools[1].name",
    "broker.resources[0].id",
    "broker.resources[0].title",
    "broker.resources[0].pool",
    "gateway.listen",
    "gateway.url",
    "gateway.state_dir",
    "agent.state_dir",
];

fn problems(text: &str) -> Vec<Problem> {
    match of_text(Path::new("ringway.toml"), text) {
        Ok(_) => Vec::new(),
        Err(error) => error.problems(Path::new("ringway.toml")),
    }
}

/// Every problem's line and key.
fn places(text: &str) -> Vec<(usize, String)> {
    let problems = problems(text).into_iter();
    problems.map(|one| (one.line.unwrap(), one.key.unwrap_or_default())).collect()
}

/// The one problem of a text.
fn only(text: &str) -> Problem {
    let problems = problems(text);
    assert_eq!(problems.len(), 1, "{text}\n{problems:#?}");
    problems.into_iter().next().unwrap()
}

/// The lines of the full file that are settings: line number, key, and where
/// the name and the value are in the line.
fn settings() -> Vec<(usize, String)> {
    fn walk(node: &Node, key: &str, found: &mut Vec<(usize, String)>) {
        match &node.value {
            Written::Table(table) => {
                for (name, node) in table {
                    walk(node, &document::joined(key, name), found);
                }
            }
            Written::List(entries)
                if entries.iter().any(|(_, e)| matches!(e.value, Written::Table(_))) =>
            {
                for (place, node) in entries {
                    walk(node, &format!("{key}[{place}]"), found);
                }
            }
            _ => found.push((node.line, key.to_owned())),
        }
    }
    let mut found = Vec::new();
    walk(&document::parse(FULL).unwrap(), "", &mut found);
    found
}

/// The full file with one line changed.
fn with_line(number: usize, change: impl FnOnce(&str) -> String) -> String {
    let mut lines: Vec<_> = FULL.lines().map(str::to_owned).collect();
    lines[number - 1] = change(&lines[number - 1]);
    lines.join("\n")
}

#[test]
fn the_full_file_is_right_and_full() {
    assert_eq!(problems(FULL), []);
    let keys: BTreeSet<_> = settings().into_iter().map(|(_, key)| key).collect();
    // No pool has all settings of a pool: some are for one kind, some for another.
    let of_any = |key: &str| key.replace("pools[1]", "pools[0]");
    let tables: BTreeSet<_> =
        keys.iter().filter_map(|key| key.rsplit_once('.').map(|(table, _)| table)).collect();
    for table in tables {
        // A key that resembles none has all of the table's listed.
        let mut written = document::parse(FULL).unwrap();
        written.insert(&format!("{table}.qqqqqqqqqqqqqqqqqqqq"), Written::Boolean(true));
        let mut found = Findings::default();
        let _file: Option<File> = shape::read(&written, &mut found);
        let remedy = found.locate(Path::new("f"), &written).remove(0).remedy;
        let known = remedy.trim_start_matches("write one of ").trim_end_matches(", or remove it");
        for name in known.split(", ") {
            let key = of_any(&format!("{table}.{name}"));
            let is_there = keys.iter().map(|k| of_any(k)).any(|k| {
                k == key || k.starts_with(&format!("{key}.")) || k.starts_with(&format!("{key}["))
            });
            assert!(is_there, "full.toml lacks {key}");
        }
    }
}

#[test]
fn every_mistyped_setting_is_named_with_its_line() {
    for (line, key) in settings() {
        // Nothing is a date.
        let text = with_line(line, |old| {
            let (name, _) = old.split_once(" = ").unwrap_or_else(|| panic!("{old}"));
            format!("{name} = 2024-01-01")
        });
        let problem = only(&text);
        assert_eq!((problem.line, problem.key.as_deref()), (Some(line), Some(key.as_str())));
        assert_eq!(problem.problem, "is a date or time");
        assert!(problem.remedy.starts_with("write "), "{problem}");
    }
}

#[test]
fn every_misspelt_setting_is_named_with_what_was_meant() {
    for (line, key) in settings() {
        let name = key.rsplit('.').next().unwrap().to_owned();
        let text = with_line(line, |old| old.replacen(&name, &format!("{name}x"), 1));
        let problem = problems(&text).into_iter().find(|p| p.key == Some(format!("{key}x")));
        let problem = problem.unwrap_or_else(|| panic!("{key}: {:#?}", problems(&text)));
        assert_eq!(problem.line, Some(line));
        assert_eq!(problem.remedy, format!("did you mean {name}?"), "{key}");
    }
}

#[test]
fn every_missing_setting_is_named_with_its_table() {
    let required: BTreeSet<_> = REQUIRED.into_iter().map(str::to_owned).collect();
    for (line, key) in settings() {
        let text = with_line(line, |_| String::new());
        let missing = problems(&text).into_iter().find(|p| p.problem == "is missing");
        // A certificate's other half, an issuer's audience: not always needed.
        let missing = missing.filter(|p| p.key.as_ref() == Some(&key));
        let always = required.contains(&key);
        // So is whose the hosts of a personal pool are.
        let sometimes = key.starts_with("broker.signing.")
            || ["broker.identity.audience", "broker.pools[1].assignment"].contains(&key.as_str());
        assert_eq!(missing.is_some(), always || sometimes, "{key}: {missing:?}");
    }
    assert_eq!(
        only("[agent]\n").to_string(),
        "ringway.toml:1: agent.state_dir: is missing; add it; the example files show how"
    );
    assert!(problems("")[0].problem.contains("has no [broker], [gateway] or [agent] table"));
}

/// The smallest files that work, for what contradicts.
const BROKER: &str = "[broker]\nlisten = '[::]:1'\npublic_url = 'https://b'\n\
                      server_names = ['b']\nstate_dir = '/s'\n";
const GATEWAY: &str = "[gateway]\nlisten = '[::]:1'\nurl = 'https://g'\nstate_dir = '/s'\n";
const AGENT: &str = "[agent]\nstate_dir = '/s'\n";

#[test]
fn the_smallest_files_work() {
    for small in [BROKER, GATEWAY, AGENT] {
        assert_eq!(problems(small), []);
    }
}

#[test]
fn what_contradicts_in_a_broker_is_named() {
    let hash = "ab".repeat(32);
    let token = format!("token_sha256 = '{hash}'");
    for (extra, key) in [
        ("public_url = 'http://b'", "broker.public_url"),
        ("public_url = 'https://b/path'", "broker.public_url"),
        ("server_names = []", "broker.server_names"),
        ("server_names = ['other']", "broker.server_names"),
        ("server_names = ['b', 'no name']", "broker.server_names[1]"),
        ("tls_certificate = 'c'", "broker.tls_certificate"),
        ("tls_key = 'k'", "broker.tls_key"),
        ("entry_gateway = 'gw/x'", "broker.entry_gateway"),
        ("admin_uids = [1000]", "broker.admin_uids"),
        ("admin_gids = [1000]", "broker.admin_gids"),
        (&format!("admin_socket = '/{}'", "s".repeat(107)), "broker.admin_socket"),
        ("identity = { issuer = 'http://i', audience = 'a' }", "broker.identity.issuer"),
        ("identity = { issuer = 'https://i' }", "broker.identity.audience"),
        ("identity = { algorithms = ['RS256', 'HS256'] }", "broker.identity.algorithms[1]"),
        ("identity = { algorithms = ['none'] }", "broker.identity.algorithms[0]"),
        (
            "[[broker.identity.static_tokens]]\nuser = 'a'\ntoken_sha256 = 'secret'",
            "broker.identity.static_tokens[0].token_sha256",
        ),
        (
            &format!(
                "identity.static_tokens = [{{ user = 'a', {token} }}, {{ user = 'b', {token} }}]"
            ),
            "broker.identity.static_tokens[1].token_sha256",
        ),
        (
            "admin_tokens = [{ name = 'a', token_sha256 = 'ab' }]",
            "broker.admin_tokens[0].token_sha256",
        ),
        (
            &format!(
                "admin_tokens = [{{ name = 'a', {token} }}, {{ name = 'a', token_sha256 = '{}' }}]",
                "cd".repeat(32)
            ),
            "broker.admin_tokens[1].name",
        ),
        (
            &format!("admin_tokens = [{{ name = 'a', {token} }}, {{ name = 'b', {token} }}]"),
            "broker.admin_tokens[1].token_sha256",
        ),
        ("pools = [{ name = 'p' }, { name = 'q' }, { name = 'p' }]", "broker.pools[2].name"),
        ("pools = [{ name = 'Not A Name' }]", "broker.pools[0].name"),
        (
            "pools = [{ name = 'p', sessions_per_host_max = 0 }]",
            "broker.pools[0].sessions_per_host_max",
        ),
        ("resources = [{ id = 'r', title = 'R', pool = 'p' }]", "broker.resources[0].pool"),
        (
            "pools = [{ name = 'p' }]\nresources = [{ id = 'r', title = \"R\\n\", pool = 'p' }]",
            "broker.resources[0].title",
        ),
        (
            "pools = [{ name = 'p' }]\nresources = [{ id = 'r', title = 'R', pool = 'p' }, \
             { id = 'r', title = 'R', pool = 'p' }]",
            "broker.resources[1].id",
        ),
        ("identity = { scopes = ['openid profile'] }", "broker.identity.scopes[0]"),
        ("identity = { scopes = ['profile'] }", "broker.identity.scopes"),
        ("identity = { refresh_s = 0 }", "broker.identity.refresh_s"),
        ("pools = [{ name = 'p', kind = 'personal' }]", "broker.pools[0].assignment"),
        ("pools = [{ name = 'p', start_patience_ms = 10 }]", "broker.pools[0].start_patience_ms"),
        ("pools = [{ name = 'p', require_amr = ['mfa'] }]", "broker.pools[0].require_amr"),
        ("pools = [{ name = 'p', require_acr = ['gold'] }]", "broker.pools[0].require_acr"),
        ("workspaces = [{ name = 'a' }, { name = 'a' }]", "broker.workspaces[1].name"),
        ("workspaces = [{ name = 'a', title = \"A\\nB\" }]", "broker.workspaces[0].title"),
        (
            "pools = [{ name = 'p' }]\n\
             resources = [{ id = 'r', title = 'R', pool = 'p', workspace = 'nowhere' }]",
            "broker.resources[0].workspace",
        ),
        (
            "limits = { feed_cookie_lifetime_ms = 86400001 }",
            "broker.limits.feed_cookie_lifetime_ms",
        ),
        ("limits = { reservation_ms = 60001 }", "broker.limits.reservation_ms"),
        ("limits = { reservation_ms = 0 }", "broker.limits.reservation_ms"),
        ("limits = { connections_max = 10 }", "broker.limits.handshakes_max"),
    ] {
        let name = extra.split(" = ").next().unwrap();
        let rest: String =
            BROKER.lines().filter(|l| !l.starts_with(name)).map(|l| format!("{l}\n")).collect();
        let problem = only(&format!("{rest}{extra}\n"));
        assert_eq!(problem.key.as_deref(), Some(key), "{extra}");
        let written_at = rest.lines().count() + 1;
        assert!(problem.line.unwrap() >= written_at, "{problem}");
        assert!(!problem.to_string().contains("secret"), "{problem}");
    }
}

#[test]
fn what_contradicts_in_a_gateway_is_named() {
    for (extra, key) in [
        ("url = 'https://g/'", "gateway.url"),
        ("tls_certificate = 'c'", "gateway.tls_certificate"),
        ("tls_key = 'k'", "gateway.tls_key"),
        ("admin_uids = [1000]", "gateway.admin_uids"),
        ("limits = { sessions_max = 400001 }", "gateway.limits.sessions_max"),
        ("limits = { head_bytes_max = 1023 }", "gateway.limits.head_bytes_max"),
        ("limits = { head_bytes_max = 65537 }", "gateway.limits.head_bytes_max"),
        ("limits = { body_bytes_max = 65537 }", "gateway.limits.body_bytes_max"),
        ("limits = { leg_output_bytes_max = 32767 }", "gateway.limits.leg_output_bytes_max"),
        ("limits = { lobby_lifetime_ms = 4999 }", "gateway.limits.lobby_lifetime_ms"),
        ("limits = { lifetime_ms = 1, idle_timeout_ms = 2 }", "gateway.limits.idle_timeout_ms"),
        ("channel = { reconnect_cap_ms = 100 }", "gateway.channel.reconnect_cap_ms"),
        ("threads = { rx_buffers = 3 }", "gateway.threads.rx_buffers"),
        ("histograms = { interval_ms = 999 }", "gateway.histograms.interval_ms"),
        ("histograms = { file_bytes_max = 4095 }", "gateway.histograms.file_bytes_max"),
        ("histograms = { file_bytes_max = 1073741825 }", "gateway.histograms.file_bytes_max"),
        ("histograms = { files_max = 10001 }", "gateway.histograms.files_max"),
    ] {
        let rest = if extra.starts_with("url") {
            GATEWAY.replace("url = 'https://g'\n", "")
        } else {
            GATEWAY.into()
        };
        assert_eq!(only(&format!("{rest}{extra}\n")).key.as_deref(), Some(key), "{extra}");
    }
}

#[test]
fn what_contradicts_in_an_agent_is_named() {
    for (extra, key) in [
        ("target = 'host'", "agent.target"),
        ("target = '::1:3389'", "agent.target"),
        ("target = ':3389'", "agent.target"),
        ("sessions_max = 0", "agent.sessions_max"),
        ("labels = ['Rack 1']", "agent.labels[0]"),
        ("health.load_per_core_max = -1.0", "agent.health.load_per_core_max"),
        ("limits.reconnect_cap_ms = 1", "agent.limits.reconnect_cap_ms"),
        ("limits.pipe_buffer_bytes = 1", "agent.limits.pipe_buffer_bytes"),
        ("[log]\nlevel = 'loud=very'", "log.level"),
    ] {
        assert_eq!(only(&format!("{AGENT}{extra}\n")).key.as_deref(), Some(key), "{extra}");
    }
}

/// Limits of which 0 has a meaning of its own.
const MAY_BE_ZERO: [&str; 18] = [
    "broker.ticket_key_days",
    "broker.identity.leeway_s",
    "broker.identity.offline_grace_s",
    "broker.limits.orphan_grace_ms",
    "broker.limits.host_failure_pause_ms",
    "gateway.limits.idle_timeout_ms",
    "gateway.limits.lifetime_ms",
    "gateway.limits.reauthenticate_after_ms",
    "gateway.limits.drain_output_ms",
    "gateway.limits.shutdown_grace_ms",
    "gateway.threads.relay_workers",
    "gateway.histograms.interval_ms",
    "agent.limits.shutdown_grace_ms",
    "broker.admin_uids",
    "broker.admin_gids",
    "gateway.admin_uids",
    "gateway.admin_gids",
    "agent.limits.reconnect_cap_ms",
];

#[test]
fn every_number_that_may_not_be_zero_is_named_when_it_is() {
    for (line, key) in settings() {
        let old = FULL.lines().nth(line - 1).unwrap();
        let (name, value) = old.split_once(" = ").unwrap();
        if value.parse::<u64>().is_err() || MAY_BE_ZERO.contains(&key.as_str()) {
            continue;
        }
        let found = places(&with_line(line, |_| format!("{name} = 0")));
        assert!(found.contains(&(line, key.clone())), "{key}: {found:?}");
    }
}

#[test]
fn all_problems_of_a_file_come_at_once_in_its_order() {
    let text = "[brokr]\n[gateway]\nlisten = 5\nurl = 'nonsense'\nstate_dir = '/s'\n\
                limits = { head_bytes_max = 1, waiting_max = 0 }\n[agent]\ntarget = 'x'\n";
    let found = places(text);
    let keys: Vec<_> = found.iter().map(|(line, key)| (*line, key.as_str())).collect();
    assert_eq!(
        keys,
        [
            (1, "brokr"),
            (3, "gateway.listen"),
            (4, "gateway.url"),
            (6, "gateway.limits.head_bytes_max"),
            (6, "gateway.limits.waiting_max"),
            (7, "agent.state_dir"),
            (8, "agent.target"),
        ]
    );
    let syntax = places("[agent]\nstate_dir = \n[gateway\n");
    assert_eq!(syntax.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn a_pool_with_a_mistake_makes_no_mistake_of_its_resources() {
    let text = format!(
        "{BROKER}pools = [{{ name = 5 }}]\nresources = [{{ id = 'r', title = 'R', pool = 'p' }}]\n"
    );
    assert_eq!(only(&text).key.as_deref(), Some("broker.pools[0].name"));
}

#[test]
fn programs_are_told_everything() {
    let file = Path::new("ringway.toml");
    let of = |text: &str| as_json(file, &of_text(file, text).map(|loaded| loaded.file.roles()));
    assert_eq!(of(AGENT), json!({ "file": "ringway.toml", "valid": true, "roles": ["agent"] }));
    assert_eq!(
        of("[agent]\nstate_dir = '/s'\nsessions_max = 0\n"),
        json!({ "file": "ringway.toml", "valid": false, "problems": [{
            "file": "ringway.toml", "line": 3, "key": "agent.sessions_max", "problem": "is 0",
            "remedy": "allow at least one session, or do not run an agent",
        }]})
    );
}
