//! Who may administer: accounts at the socket, tokens over HTTPS.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use ringway::core::codes::Code;
use ringway::dial::{DialError, Purpose};
use ringway::wire::admin::{AdminRequest, AdminResponse, HTTPS_PATH};
use ringway::wire::enroll::MachineRole;
use serde_json::Value;

use crate::support::broker_process::{BrokerProcess, sha256};
use crate::support::programs::{available, ringway, said, skip};

const TOKEN: &str = "an-operators-token";
const POOL: &str = "[[broker.pools]]\nname = \"office\"";

fn admin_tables() -> String {
    let hash = sha256(TOKEN);
    format!("[[broker.admin_tokens]]\nname = \"ops\"\ntoken_sha256 = \"{hash}\"\n{POOL}")
}

/// `ringway ctl` as somebody who is somewhere else.
fn ctl(broker: &BrokerProcess, token: &str, arguments: &[&str]) -> Output {
    let mut command = ringway();
    command.args(arguments).args(["--url", &broker.url("")]).arg("--ca").arg(broker.ca());
    command.env("RINGWAY_ADMIN_TOKEN", token).output().unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", said(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn an_admin_token_does_over_https_what_the_socket_does() {
    let broker = BrokerProcess::start("", &admin_tables());
    let status = json(&ctl(&broker, TOKEN, &["ctl", "status", "--json"]));
    assert_eq!((&status["answer"], &status["role"]), (&"status".into(), &"broker".into()));
    assert_eq!(status["config"]["file"], broker.config().display().to_string());
    for what in ["hosts", "gateways", "sessions", "tokens"] {
        let here = {
            let mut command = ringway();
            command.args(["ctl", what, "--json", "--socket"]).arg(broker.socket());
            json(&command.output().unwrap())
        };
        assert_eq!(json(&ctl(&broker, TOKEN, &["ctl", what, "--json"])), here, "{what}");
        let table = ctl(&broker, TOKEN, &["ctl", what]);
        assert_eq!(String::from_utf8(table.stdout).unwrap(), "none\n", "{what}");
    }
    let create = ["token", "create", "--pool", "office", "--json"];
    let token = json(&ctl(&broker, TOKEN, &create))["token"].as_str().unwrap().to_owned();
    let AdminResponse::Tokens { tokens } = broker.ask(&AdminRequest::Tokens) else { panic!() };
    assert_eq!((tokens.len(), tokens[0].role), (1, MachineRole::Agent));
    // Who did it is in the log, and with what is not.
    let log = broker.process.printed();
    assert!(log.contains("An operator acts") && log.contains("token ops"), "{log}");
    for secret in [TOKEN, &sha256(TOKEN), &token] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn an_admin_token_can_be_in_a_file_that_is_ones_own() {
    let broker = BrokerProcess::start("", &admin_tables());
    let file = broker.folder().join("token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let ask = || {
        let mut command = ringway();
        command.args(["ctl", "status", "--url", &broker.url(""), "--ca"]).arg(broker.ca());
        command.arg("--token-file").arg(&file).env_remove("RINGWAY_ADMIN_TOKEN");
        command.output().unwrap()
    };
    assert!(said(&ask()).contains("chmod 600"), "{}", said(&ask()));
    let mine = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&file, mine).unwrap();
    assert!(said(&ask()).contains("role        broker\n"), "{}", said(&ask()));
}

#[tokio::test]
async fn wrong_admin_tokens_are_refused_and_soon_not_listened_to() {
    let broker = BrokerProcess::start("", &admin_tables());
    let https = broker.https();
    let ask = async |token: Option<&str>| -> Result<AdminResponse, Code> {
        let (url, request) = (broker.url(HTTPS_PATH), AdminRequest::Status);
        let asked = https.post_json(Purpose::MANAGE, &url, token, &request).await;
        asked.map_err(|error: DialError| error.refusal().unwrap().code)
    };
    assert!(ask(Some(TOKEN)).await.is_ok());
    for wrong in [None, Some(""), Some("guess"), Some(sha256(TOKEN).as_str())] {
        assert_eq!(ask(wrong).await, Err(Code::AdminTokenUnknown), "{wrong:?}");
    }
    assert!(ask(Some(TOKEN)).await.is_ok(), "a few mistakes are human");
    for _ in 4..10 {
        assert_eq!(ask(Some("guess")).await, Err(Code::AdminTokenUnknown));
    }
    for token in ["guess", TOKEN] {
        assert_eq!(ask(Some(token)).await, Err(Code::AdminTokenGuessing));
    }
    // The socket is another door.
    assert_eq!(broker.status().role, "broker");
    let log = broker.process.printed();
    assert!(log.contains("Refused an admin token") && !log.contains("guess"), "{log}");
}

#[tokio::test]
async fn without_admin_tokens_there_is_nothing_to_administer_over_https() {
    let broker = BrokerProcess::start("", POOL);
    let https = broker.https();
    let url = broker.url(HTTPS_PATH);
    let asked: Result<AdminResponse, DialError> =
        https.post_json(Purpose::MANAGE, &url, Some(TOKEN), &AdminRequest::Status).await;
    assert_eq!(asked.unwrap_err().refusal().unwrap().code, Code::NotFound);
    let looked = https.get(Purpose::MANAGE, &url, None).await;
    assert_eq!(looked.unwrap_err().refusal().unwrap().code, Code::NotFound);
    let said = said(&ctl(&broker, TOKEN, &["ctl", "status"]));
    assert!(said.contains("[[broker.admin_tokens]]"), "{said}");
}

/// A copy of the program where every account may run it.
fn for_everybody(folder: &Path) -> std::path::PathBuf {
    let (ours, copy) = (ringway().get_program().to_owned(), folder.join("ringway"));
    fs::hard_link(&ours, &copy).or_else(|_| fs::copy(&ours, &copy).map(drop)).unwrap();
    copy
}

#[test]
fn the_socket_answers_root_and_those_who_are_named() {
    if !rustix::process::geteuid().is_root() {
        return skip("becoming another account needs root");
    }
    if !available(&["setpriv"]) {
        return;
    }
    let ask_as = |broker: &BrokerProcess, program: &Path, uid: &str, gid: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", uid, "--regid", gid, "--clear-groups"]).arg(program);
        command.args(["ctl", "status", "--socket"]).arg(broker.socket());
        command.output().unwrap()
    };
    let broker = BrokerProcess::start("admin_uids = [4242]\nadmin_gids = [5151]", POOL);
    let program = for_everybody(broker.folder());
    for (uid, gid) in [("0", "0"), ("4242", "4343"), ("4343", "5151")] {
        let output = ask_as(&broker, &program, uid, gid);
        assert!(output.status.success(), "uid {uid}, gid {gid}: {}", said(&output));
    }
    let output = ask_as(&broker, &program, "4343", "4343");
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains(Code::AdminNotAllowed.facts().name), "{}", said(&output));
    let log = broker.process.printed();
    let refused = log.lines().filter(|line| line.contains("Refused an account"));
    assert_eq!(refused.filter(|line| line.contains("4343")).count(), 1, "{log}");

    // With nobody named the kernel keeps others out before that.
    let broker = BrokerProcess::start("", POOL);
    let program = for_everybody(broker.folder());
    assert!(ask_as(&broker, &program, "0", "0").status.success());
    let output = ask_as(&broker, &program, "4242", "5151");
    assert!(said(&output).contains("are you its user or root?"), "{}", said(&output));
}
