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
