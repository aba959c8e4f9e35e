//! What we install next to systemd is accepted by systemd, and the example
//! configurations are accepted by us.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::deployment::Deployment;
use crate::support::programs::{available, ringway, said, skip};
use crate::support::wait::free_address;

const UNITS: [&str; 3] = ["ringway-gateway", "ringway-broker", "ringway-agent"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

/// Copies a unit with a program that exists here in the place of the installed
/// one, which `systemd-analyze` would miss.
fn copy_unit(name: &str, to: &Path) -> PathBuf {
    let unit = read(&format!("{name}.service"));
    assert!(unit.contains("=/usr/bin/ringway "), "{name} starts something else");
    let copy = to.join(format!("{name}.service"));
    let unit = unit.replace("=/usr/bin/ringway ", "=/bin/true ");
    std::fs::write(&copy, unit.replace("=/bin/kill ", "=/bin/true ")).unwrap();
    copy
}

fn analyze(unit: &Path) -> (bool, String) {
    let output = Command::new("systemd-analyze").arg("verify").arg(unit).output().unwrap();
    (output.status.success(), said(&output))
}

#[test]
fn systemd_accepts_the_units_without_a_remark() {
    if !available(&["systemd-analyze"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for name in UNITS {
        let unit = copy_unit(name, folder.path());
        let (accepted, remarks) = analyze(&unit);
        // Remarks about the machine's own units are not about ours.
        let ours: Vec<_> = remarks.lines().filter(|line| line.contains(name)).collect();
        assert!(accepted && ours.is_empty(), "{name}: {remarks}");
    }
}

#[test]
fn systemd_would_notice_a_mistake_in_a_unit() {
    if !available(&["systemd-analyze"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let unit = copy_unit("ringway-agent", folder.path());
    let broken = std::fs::read_to_string(&unit).unwrap().replace("WatchdogSec", "WatchdogSecs");
    std::fs::write(&unit, broken).unwrap();
    let (_, remarks) = analyze(&unit);
    assert!(remarks.contains("WatchdogSecs"), "{remarks}");
}

/// What SIGHUP does is in `reload`.
#[test]
fn every_unit_checks_its_file_and_reloads() {
    for name in UNITS {
        let unit = read(&format!("{name}.service"));
        let role = name.trim_start_matches("ringway-");
        let check =
            format!("\nExecReload=/usr/bin/ringway config check /etc/ringway/{role}.toml\n");
        assert!(unit.contains(&format!("{check}ExecReload=/bin/kill -HUP $MAINPID\n")), "{name}");
    }
}

/// The units say `Type=notify` and `WatchdogSec=`.
#[test]
fn every_role_says_that_it_is_ready_alive_and_stopping() {
    for name in UNITS {
        let unit = read(&format!("{name}.service"));
        assert!(unit.contains("\nType=notify\n") && unit.contains("\nWatchdogSec="), "{name}");
    }
    let mut ringway = Deployment::start(1, free_address(), &[]);
    ringway.assert_watchdogs_are_fed();
    ringway.stop();
}

#[test]
fn systemd_accepts_users_and_folders() {
    if !available(&["systemd-sysusers", "systemd-tmpfiles"]) {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        return skip("making users in a folder of one's own still needs root");
    }
    // Both run against an empty tree of their own, not against this machine.
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("etc")).unwrap();
    let run = |program: &str, file: &str, flags: &[&str]| {
        let output = Command::new(program)
            .arg(format!("--root={}", root.path().display()))
            .args(flags)
            .arg(root.path().join(file))
            .output()
            .unwrap();
        assert!(output.status.success(), "{program}: {}", said(&output));
    };
    for file in ["ringway.sysusers.conf", "ringway.tmpfiles.conf"] {
        std::fs::copy(folder().join(file), root.path().join(file)).unwrap();
    }
    run("systemd-sysusers", "ringway.sysusers.conf", &[]);
    let users = std::fs::read_to_string(root.path().join("etc/passwd")).unwrap();
    for name in UNITS {
        assert!(users.lines().any(|line| line.starts_with(&format!("{name}:"))), "{users}");
        assert!(read(&format!("{name}.service")).contains(&format!("\nUser={name}\n")));
    }
    run("systemd-tmpfiles", "ringway.tmpfiles.conf", &["--create"]);
    assert!(root.path().join("etc/ringway").is_dir());
    assert!(root.path().join("var/lib/ringway").is_dir());
}

#[test]
fn every_kernel_setting_exists() {
    for line in read("90-ringway.sysctl.conf").lines().filter(|l| !l.starts_with('#')) {
        let Some((key, _value)) = line.split_once(" = ") else {
            assert!(line.is_empty(), "{line:?} is not a setting");
            continue;
        };
        let file = Path::new("/proc/sys").join(key.replace('.', "/"));
        assert!(file.exists(), "this kernel has no {key}");
    }
}

#[test]
fn the_example_configurations_are_accepted() {
    for role in ["broker", "gateway", "agent"] {
        let file = folder().join("examples").join(format!("{role}.toml"));
        let output = ringway().args(["config", "check"]).arg(&file).output().unwrap();
        assert!(output.status.success(), "{role}: {}", said(&output));
    }
}
