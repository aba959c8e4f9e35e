//! What a small file is enough for; mistakes are in `config::tests`.

use std::path::Path;

use super::*;
use crate::config::Findings;

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

#[test]
fn a_small_file_is_enough() {
    let config = parse(SMALL);
    assert!(Findings::of(|found| config.check(found)).is_empty());
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
        assert!(Findings::of(|found| config.check(found)).is_empty());
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
