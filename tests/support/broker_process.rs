//! `ringway broker` as a process of its own, whose configuration a test
//! changes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use aws_lc_rs::digest;
use ringway::cli::ctl;
use ringway::dial::DialLimits;
use ringway::dial::http::HttpsClient;
use ringway::tls::identity::read_roots;
use ringway::tls::settings::TlsSettings;
use ringway::wire::admin::{AdminRequest, AdminResponse, StatusView};
use tempfile::TempDir;

use super::process::Process;
use super::programs::ringway;
use super::wait::{free_address, poll};

const START_LIMIT: Duration = Duration::from_secs(20);

pub struct BrokerProcess {
    /// Everybody may enter it: the socket is in it.
    folder: TempDir,
    port: u16,
    pub process: Process,
}

impl BrokerProcess {
    /// Starts one and waits until it answers. `keys` are lines of `[broker]`,
    /// `tables` come after them.
    pub fn start(keys: &str, tables: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let port = free_address().port();
        let mut command = ringway();
        command.args(["broker", "--config"]).arg(folder.path().join("broker.toml"));
        command.env_remove("RINGWAY_LOG");
        fs::write(folder.path().join("broker.toml"), text(&folder, port, keys, tables)).unwrap();
        let process = Process::start(folder.path(), "broker", &command);
        let mut broker = Self { folder, port, process };
        let up = poll(START_LIMIT, || {
            let answers = ctl::ask(&broker.socket(), &AdminRequest::Status).is_ok();
            (answers || !broker.process.is_running()).then_some(answers)
        });
        assert_eq!(up, Some(true), "{}", broker.process.last_words());
        broker
    }

    /// Another file, as an editor saves it: at once, under the same name.
    pub fn write_config(&self, keys: &str, tables: &str) {
        let new = self.folder.path().join("broker.toml.new");
        fs::write(&new, text(&self.folder, self.port, keys, tables)).unwrap();
        fs::rename(new, self.config()).unwrap();
    }

    pub fn hang_up(&self) {
        rustix::process::kill_process(self.process.pid(), rustix::process::Signal::HUP).unwrap();
    }

    /// Waits until its status is as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&StatusView) -> bool) -> StatusView {
        let seen = poll(START_LIMIT, || Some(self.status()).filter(&wanted));
        seen.unwrap_or_else(|| panic!("{what}: {:?}\n{}", self.status(), self.process.last_words()))
    }

    pub fn status(&self) -> StatusView {
        match self.ask(&AdminRequest::Status) {
            AdminResponse::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub fn ask(&self, request: &AdminRequest) -> AdminResponse {
        ctl::ask(&self.socket(), request).unwrap()
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("broker.toml")
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("state/ca.pem")
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    pub fn https(&self) -> HttpsClient {
        ringway::tls::install_provider();
        let tls = TlsSettings::default().client(read_roots(Some(&self.ca())).unwrap()).unwrap();
        HttpsClient::new(tls, DialLimits::default()).unwrap()
    }
}

/// SHA-256 in hex, as in the configuration.
pub fn sha256(token: &str) -> String {
    hex::encode(digest::digest(&digest::SHA256, token.as_bytes()))
}

fn text(folder: &TempDir, port: u16, keys: &str, tables: &str) -> String {
    let place = folder.path().display();
    format!(
        "[broker]\nlisten = \"127.0.0.1:{port}\"\npublic_url = \"https://localhost:{port}\"\n\
         server_names = [\"localhost\"]\nstate_dir = \"{place}/state\"\n\
         admin_socket = \"{place}/admin.sock\"\n{keys}\n{tables}\n"
    )
}
