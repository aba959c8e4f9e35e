//! RDP clients that people have already: FreeRDP of three Debian suites, as
//! packaged, each on a screen of its own.
//!
//! A client runs in a mount namespace of its own: the newer ones inside the
//! folder that `tests/clients/install` made, all of them with a home folder and
//! names (`/etc/hosts`) of their own. When the client ends, the mounts are gone.

use std::fmt;
use std::fs::Permissions;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use super::process::Process;
use super::programs::{available, said, skip};
use super::screen::{self, Screen, Window};
use super::wait::poll;

/// Where the namespace sees the folder of the client's screen: its home.
const HOME: &str = "/mnt";
/// Where it sees the file that it was given.
pub const RDP_FILE: &str = "/mnt/desktop.rdp";
const BUS_LIMIT: Duration = Duration::from_secs(20);
/// From the start of a client to its window, on a busy machine.
const WINDOW_LIMIT: Duration = Duration::from_secs(30);

/// The FreeRDP that a Debian suite packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeRdp {
    /// 2.11, this machine's own.
    Bookworm,
    /// 3.15
    Trixie,
    /// 3.32 or newer.
    Forky,
}

impl FreeRdp {
    pub const ALL: [Self; 3] = [Self::Bookworm, Self::Trixie, Self::Forky];

    /// Whether all of them can run here. If not, says why; in CI that fails.
    pub fn all_available() -> bool {
        let clients = Self::ALL.into_iter().all(|client| client.is_installed());
        clients
            && screen::available_here()
            && available(&["openssl", "chroot", "dbus-daemon"])
            && may_mount()
    }

    fn is_installed(self) -> bool {
        let program = self.root().join(self.program().trim_start_matches('/'));
        let there = program.is_file();
        if !there {
            skip(&format!("no {}: tests/clients/install makes it", program.display()));
        }
        there
    }

    fn root(self) -> PathBuf {
        let suite = match self {
            Self::Bookworm => return "/".into(),
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        };
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
        cache.unwrap_or_else(home).join("ringway-clients").join(suite)
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Bookworm => "/usr/bin/xfreerdp",
            Self::Trixie | Self::Forky => "/usr/bin/xfreerdp3",
        }
    }
}

impl fmt::Display for FreeRdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bookworm => "FreeRDP 2.11 (bookworm)",
            Self::Trixie => "FreeRDP 3.15 (trixie)",
            Self::Forky => "FreeRDP 3.32 (forky)",
        })
    }
}

fn may_mount() -> bool {
    match Command::new("unshare").args(["--mount", "true"]).output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            skip(&format!("stock clients need root and mounts of their own: {}", said(&output)));
            false
        }
        Err(error) => {
            skip(&format!("unshare: {error}"));
            false
        }
    }
}

/// What a client finds around it.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Certificates that it trusts, of authorities and of hosts. PEM.
    pub trusted: Vec<String>,
    /// Names that it can resolve besides `localhost`.
    pub names: Vec<(String, IpAddr)>,
    /// [`RDP_FILE`]
    pub rdp_file: Option<Vec<u8>>,
    /// What is typed into its terminal. Where a sign-in helper is asked
    /// instead, it says the same.
    pub terminal: String,
}

/// A running client. It is ended when this is dropped.
pub struct StockClient {
    pub version: FreeRdp,
    pub screen: Screen,
    process: Process,
    /// Lives as long as the client.
    _bus: Option<SessionBus>,
}

/// D-Bus, as in everybody's session. Without one FreeRDP 3.32 asks nobody for
/// a sign-in: it looks for an identity broker there first.
struct SessionBus {
    address: String,
    _process: Process,
}

impl SessionBus {
    fn start(folder: &Path) -> Self {
        // By a name and not a file: the client's root is another.
        let address = format!("unix:abstract={}/bus", folder.display());
        let mut command = Command::new("dbus-daemon");
        command.args(["--session", "--nofork", "--nopidfile", "--print-address"]);
        command.arg(format!("--address={address}"));
        let process = Process::start(folder, "bus", &command);
        let listens = poll(BUS_LIMIT, || process.printed().contains("unix:").then_some(()));
        assert!(listens.is_some(), "no D-Bus\n{}", process.last_words());
        Self { address, _process: process }
    }
}

impl StockClient {
    /// Starts a screen, and on it the client with these arguments.
    pub fn start<A: AsRef<str>>(version: FreeRdp, around: &Surroundings, arguments: &[A]) -> Self {
        let screen = Screen::start();
        furnish(screen.folder(), around);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--", "sh", "-c", ENTER, "sh"]);
        command.arg(version.root()).arg(screen.folder()).arg(version.program());
        command.args(arguments.iter().map(AsRef::as_ref));
        command.env("DISPLAY", &screen.display).env("HOME", HOME);
        command.env_remove("XDG_CONFIG_HOME").env("LC_ALL", "C.UTF-8");
        // Version 2 knows only its own folder.
        command.env("SSL_CERT_FILE", format!("{HOME}/trusted.pem"));
        let signs_in = version == FreeRdp::Forky && !around.terminal.is_empty();
        let bus = signs_in.then(|| SessionBus::start(screen.folder()));
        if let Some(bus) = &bus {
            command.env("DBUS_SESSION_BUS_ADDRESS", &bus.address);
        }
        let process = Process::start(screen.folder(), "client", &command);
        Self { version, screen, process, _bus: bus }
    }

    /// Its window, once it has one. Panics with its log when there is none.
    pub fn window(&mut self) -> Window {
        let window = poll(WINDOW_LIMIT, || {
            let window = self.screen.window();
            (window.is_some() || !self.process.is_running()).then_some(window)
        });
        window.flatten().unwrap_or_else(|| {
            panic!("{} opened no window\n{}", self.version, self.process.last_words())
        })
    }

    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Everything that it printed so far.
    pub fn printed(&self) -> String {
        self.process.printed()
    }

    /// The end of what it printed, for messages.
    pub fn last_words(&self) -> String {
        self.process.last_words()
    }

    /// Waits for its end.
    #[must_use]
    pub fn ended(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.process.wait(limit)
    }
}

/// Where AVD-mode clients sign in: by an authority of that name, which newer
/// ones ask through a program of their own instead of the terminal.
pub fn azure_option(version: FreeRdp, authority: &str) -> String {
    match version {
        FreeRdp::Forky => format!("/azure:ad:{authority},auth-helper:{HOME}/{SIGN_IN_HELPER}"),
        FreeRdp::Bookworm | FreeRdp::Trixie => format!("/azure:ad:{authority}"),
    }
}

/// Writes what the client finds in its home.
fn furnish(home: &Path, around: &Surroundings) {
    let write = |name: &str, bytes: &[u8]| std::fs::write(home.join(name), bytes).unwrap();
    write("trusted.pem", around.trusted.concat().as_bytes());
    write("terminal", around.terminal.as_bytes());
    write(SIGN_IN_HELPER, SIGN_IN.as_bytes());
    let executable = Permissions::from_mode(0o755);
    std::fs::set_permissions(home.join(SIGN_IN_HELPER), executable).unwrap();
    let mut hosts = String::from("127.0.0.1 localhost\n");
    for (name, address) in &around.names {
        hosts.push_str(&format!("{address} {name}\n"));
    }
    write("hosts", hosts.as_bytes());
    if let Some(file) = &around.rdp_file {
        write("desktop.rdp", file);
    }
    let known = home.join(".config/freerdp/certs");
    std::fs::create_dir_all(&known).unwrap();
    for certificate in &around.trusted {
        trust(&known, certificate);
    }
}

/// Lays a certificate where version 2 looks: `HASH.N`, as `c_rehash` names them.
fn trust(folder: &Path, pem: &str) {
    let new = folder.join("new.pem");
    std::fs::write(&new, pem).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-noout", "-subject_hash", "-in"]).arg(&new);
    let output = openssl.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let hash = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let free = (0..).map(|n| folder.join(format!("{hash}.{n}"))).find(|file| !file.exists());
    std::fs::rename(new, free.unwrap()).unwrap();
}

/// `$1` is the root of the client's system, `$2` its home, the rest the client
/// and its arguments. The X server is reached by its socket.
const ENTER: &str = "
set -eu
root=${1%/} home=$2
shift 2
if [ -n \"$root\" ]; then
    mount --bind \"$root\" \"$root\"
    mount -o remount,bind,ro \"$root\"
    mount --rbind /dev \"$root/dev\"
    mount --rbind /proc \"$root/proc\"
    mount -t tmpfs tmpfs \"$root/tmp\"
    mkdir \"$root/tmp/.X11-unix\"
    mount --bind /tmp/.X11-unix \"$root/tmp/.X11-unix\"
fi
mount --bind \"$home\" \"$root/mnt\"
mount --bind \"$home/hosts\" \"$root/etc/hosts\"
cd \"$root/mnt\"
exec chroot \"${root:-/}\" \"$@\" < terminal
";

const SIGN_IN_HELPER: &str = "sign-in";

/// FreeRDP's way to ask a browser: JSON-RPC over two pipes, a text a line. Their
/// numbers are hexadecimal and behind a letter. The answer to every page is what
/// somebody would paste who signed in there, with the `state` of the question.
const SIGN_IN: &str = r#"#!/bin/sh
for argument; do
    case $argument in
    --cmdInFd=P*) in=$((0x${argument#*=P})) ;;
    --cmdOutFd=P*) out=$((0x${argument#*=P})) ;;
    esac
done
while read -r request; do
    id=${request#*\"id\":} id=${id%%[!0-9]*}
    case $request in
    *'"exit"'*) exit ;;
    *'"navigate"'*)
        state=${request#*state=} state=${state%%[!0-9A-Za-z_-]*}
        result="{\"redirect_url\":\"$(cat "$HOME/terminal")&state=$state\"}"
        ;;
    *) result={} ;;
    esac
    echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":$result}"
done < "/dev/fd/$in" > "/dev/fd/$out"
"#;
