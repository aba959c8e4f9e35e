//! What is accepted, and how mistakes are named.

use std::path::Path;

use super::*;

const SMALL: &str = r#"
    listen = "127.0.0.1:0"
    public_url = "https://broker.example:8443"
    server_names = ["broker.example"]
    state_dir = "/var/lib/ringway"
    [[pools]]
    name = "office"
    [[resources]]
    id = "desktop"
    title = "Office desktop"
    pool = "office"
    users = ["ann"]
    groups = ["staff"]
"#;

fn parse(text: &str) -> BrokerConfig {
    toml::from_str(text).unwrap()
}

fn problem(text: &str) -> String {
    parse(text).check(Path::new("broker.toml")).unwrap_err().to_string()
}

#[test]
fn a_small_file_is_enough() {
    let config = parse(SMALL);
    config.check(Path::new("broker.toml")).unwrap();
    assert_eq!(config.workspace.as_str(), "ringway");
    assert_eq!(config.admin_socket(), Path::new("/var/lib/ringway/admin.sock"));
    let desktop = config.resource(&"desktop".parse().unwrap()).unwrap();
    assert!(desktop.is_assigned_to("ann", &[]));
    assert!(desktop.is_assigned_to("bob", &["staff".into()]));
    assert!(!desktop.is_assigned_to("bob", &["guests".into()]));
}

#[test]
fn a_resource_belongs_to_its_own_workspace_or_to_the_default_one() {
    let default = |extra: &str| {
        let config = parse(&SMALL.replacen("[[pools]]", &format!("{extra}\n[[pools]]"), 1));
        config.check(Path::new("broker.toml")).unwrap();
        let desktop = config.resource(&"desktop".parse().unwrap()).unwrap();
        config.workspace_of(desktop).to_string()
    };
    let declared = "workspaces = [{ name = \"b\" }, { name = \"a\", title = \"A\" }]";
    assert_eq!(default(""), "ringway");
    assert_eq!(default("workspace = \"acme\""), "acme");
    assert_eq!(default(declared), "b", "the first");
    assert_eq!(default(&format!("workspace = \"a\"\n{declared}")), "a");
    let own = SMALL.replacen("[[pools]]", &format!("{declared}\n[[pools]]"), 1);
    let own = own.replace("groups = [\"staff\"]", "workspace = \"a\"");
    let config = parse(&own);
    assert_eq!(config.workspace_of(&config.resources[0]).as_str(), "a");
    let titles: Vec<_> = config.all_workspaces().iter().map(|w| w.title().to_owned()).collect();
    assert_eq!(titles, ["b", "A"]);
}

#[test]
fn each_mistake_names_its_key() {
    for (from, to, key) in [
        ("https://broker.example:8443", "http://broker.example", "broker.public_url"),
        ("[\"broker.example\"]", "[]", "broker.server_names"),
        ("state_dir", "tls_key = \"k\"\nstate_dir", "broker.tls_certificate"),
        ("pool = \"office\"", "pool = \"nowhere\"", "broker.resources.pool"),
        (
            "name = \"office\"",
            "name = \"office\"\nsessions_per_host_max = 0",
            "sessions_per_host_max",
        ),
        (
            "[[pools]]",
            "[limits]\nreservation_ms = 60001\n[[pools]]",
            "broker.limits.reservation_ms",
        ),
        ("[[pools]]", "[limits]\nconnections_max = 0\n[[pools]]", "broker.limits"),
        (
            "[[pools]]",
            "[limits]\nfeed_cookie_lifetime_ms = 86400001\n[[pools]]",
            "broker.limits.feed_cookie_lifetime_ms",
        ),
        (
            "pool = \"office\"",
            "pool = \"office\"\nworkspace = \"nowhere\"",
            "broker.resources.workspace",
        ),
        (
            "[[pools]]",
            "workspaces = [{ name = \"a\" }, { name = \"a\" }]\n[[pools]]",
            "broker.workspaces",
        ),
        (
            "[[pools]]",
            "workspaces = [{ name = \"a\", title = \"A\\nB\" }]\n[[pools]]",
            "broker.workspaces.title",
        ),
        ("[[pools]]", "[identity]\nissuer = \"https://i\"\n[[pools]]", "broker.identity.audience"),
        (
            "name = \"office\"",
            "name = \"office\"\nrequire_amr = [\"mfa\"]",
            "broker.pools.require_amr",
        ),
        (
            "[[pools]]",
            "[identity]\nscopes = [\"openid profile\"]\n[[pools]]",
            "broker.identity.scopes",
        ),
        ("[[pools]]", "[identity]\nscopes = [\"profile\"]\n[[pools]]", "broker.identity.scopes"),
        ("[[pools]]", "[identity]\nrefresh_s = 0\n[[pools]]", "broker.identity.refresh_s"),
        (
            "[[pools]]",
            "[identity]\nalgorithms = [\"HS256\"]\n[[pools]]",
            "broker.identity.algorithms",
        ),
        (
            "[[pools]]",
            "[identity]\nstatic_tokens = [{ user = \"a\", token_sha256 = \"ab\" }]\n[[pools]]",
            "broker.identity.static_tokens",
        ),
    ] {
        let message = problem(&SMALL.replacen(from, to, 1));
        assert!(message.contains(key), "{key}: {message}");
    }
}

#[test]
fn unknown_keys_are_errors() {
    assert!(toml::from_str::<BrokerConfig>(&SMALL.replace("listen", "lisen")).is_err());
}
