//! A session host: xrdp with xorgxrdp from Debian's packages.
//!
//! It runs in mount and process namespaces of its own, so that a test leaves no
//! trace: its users exist only in private copies of the password files, its
//! configuration replaces the machine's only there, and when its first process
//! dies the kernel ends the desktops too.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::process::Process;
use super::programs::{available, said, skip};
use super::wait::{free_address, listens, poll};

pub const PASSWORD: &str = "Demo-Pass-1";
const START_LIMIT: Duration = Duration::from_secs(20);
/// Users with these numbers exist in the private password file only.
const FIRST_UID: u32 = 61_001;
/// Where the namespace sees the folder of this host.
const INSIDE: &str = "/mnt";

/// Someone with a desktop of a colour of their own, so that it shows when two
/// sessions are mixed up.
#[derive(Clone, Copy)]
pub struct User {
    pub name: &'static str,
    /// `#RRGGBB`, in capitals.
    pub colour: &'static str,
}

pub struct XrdpHost {
    pub address: SocketAddr,
    folder: TempDir,
    process: Process,
}

impl XrdpHost {
    /// Starts a host with these users. `None`, with the reason printed, where
    /// that is impossible; in CI that fails.
    pub fn start(users: &[User]) -> Option<Self> {
        let programs = ["xrdp", "xrdp-sesman", "Xorg", "openbox", "xterm", "xsetroot", "openssl"];
        if !available(&programs) || !may_make_namespaces() {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let sesman_port = free_address().port();
        write_folder(folder.path(), address, sesman_port, users);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh"]);
        command.arg(folder.path().join("etc/start.sh")).arg(folder.path());
        let process = Process::start(&folder.path().join("log"), "xrdp-host", &command);
        let host = Self { address, folder, process };
        let ready = || (listens(address.port()) && listens(sesman_port)).then_some(());
        assert!(poll(START_LIMIT, ready).is_some(), "xrdp does not listen\n{}", host.logs());
        Some(host)
    }

    /// Whether xrdp's log says that the user signed in, before the deadline.
    pub fn logged_in(&self, user: User, limit: Duration) -> bool {
        let line = format!("login successful for user {}", user.name);
        let log = self.folder.path().join("log/xrdp.log");
        let look = || fs::read_to_string(&log).ok().filter(|log| log.contains(&line));
        poll(limit, look).is_some()
    }

    /// The certificate that RDP's own TLS shows. It signs itself, and its names
    /// are those under which clients know a host: of a machine, a resource, a host.
    pub fn certificate_pem(&self) -> String {
        fs::read_to_string(self.folder.path().join("etc/host.crt")).unwrap()
    }

    /// The user's home folder, as seen from here.
    pub fn home(&self, user: User) -> PathBuf {
        self.folder.path().join("home").join(user.name)
    }

    pub fn logs(&self) -> String {
        let read = |name| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        let (xrdp, sesman) = (read("log/xrdp.log"), read("log/sesman.log"));
        format!("{}--- xrdp ---\n{xrdp}\n--- sesman ---\n{sesman}\n", self.process.last_words())
    }
}

fn may_make_namespaces() -> bool {
    let attempt = Command::new("unshare").args(["--mount", "--pid", "--fork", "true"]).output();
    match attempt {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            skip(&format!("xrdp needs root and namespaces of its own: {}", said(&output)));
            false
        }
        Err(error) => {
            skip(&format!("unshare: {error}"));
            false
        }
    }
}

fn write_folder(folder: &Path, address: SocketAddr, sesman_port: u16, users: &[User]) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["tmp", "etc", "log", "home"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    fs::set_permissions(folder.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    let etc = folder.join("etc");
    fs::write(etc.join("xrdp.ini"), xrdp_ini(address)).unwrap();
    fs::write(etc.join("sesman.ini"), sesman_ini(sesman_port)).unwrap();
    fs::write(etc.join("start.sh"), START).unwrap();
    let session = etc.join("session.sh");
    fs::write(&session, SESSION).unwrap();
    fs::set_permissions(&session, fs::Permissions::from_mode(0o755)).unwrap();
    let request = "req -x509 -newkey rsa:2048 -nodes -days 30 -keyout host.key -out host.crt \
                   -subj /CN=ringway-test-host \
                   -addext subjectAltName=DNS:localhost,DNS:desktop,DNS:host-1";
    openssl(&etc, &request.split_whitespace().collect::<Vec<_>>());
    write_users(folder, users);
}

/// Copies the machine's users, so that xrdp's own still exist, and adds ours.
fn write_users(folder: &Path, users: &[User]) {
    let hash = openssl(folder, &["passwd", "-6", PASSWORD]);
    let [mut passwd, mut group, mut shadow] = ["passwd", "group", "shadow"]
        .map(|name| fs::read_to_string(Path::new("/etc").join(name)).unwrap());
    for (user, uid) in users.iter().zip(FIRST_UID..) {
        let name = user.name;
        passwd.push_str(&format!("{name}:x:{uid}:{uid}::{INSIDE}/home/{name}:/bin/sh\n"));
        group.push_str(&format!("{name}:x:{uid}:\n"));
        shadow.push_str(&format!("{name}:{}:20000:0:99999:7:::\n", hash.trim()));
        let home = folder.join("home").join(name);
        fs::create_dir(&home).unwrap();
        fs::write(home.join("colour"), user.colour).unwrap();
        chown(&home, Some(uid), Some(uid)).unwrap();
    }
    for (name, text) in [("passwd", passwd), ("group", group), ("shadow", shadow)] {
        fs::write(folder.join("etc").join(name), text).unwrap();
    }
    let shadow = folder.join("etc/shadow");
    fs::set_permissions(shadow, fs::Permissions::from_mode(0o600)).unwrap();
}

fn openssl(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "openssl: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// First process of the namespace; `$1` is the folder. The machine's
/// `sesman.ini` is replaced because xrdp looks for sesman's port nowhere else.
const START: &str = "\
set -eu
mount --bind \"$1\" /mnt
mount --bind /mnt/tmp /tmp
mount -t tmpfs -o mode=755 tmpfs /run
for file in passwd group shadow; do mount --bind /mnt/etc/$file /etc/$file; done
mount --bind /mnt/etc/sesman.ini /etc/xrdp/sesman.ini
install -d -o root -g xrdp -m 2775 /run/xrdp
install -d -o root -g xrdp -m 3777 /run/xrdp/sockdir
cd /
PATH=$PATH:/usr/sbin:/sbin
xrdp-sesman -n -c /etc/xrdp/sesman.ini &
xrdp -n -c /mnt/etc/xrdp.ini &
wait
";

/// What a desktop shows: a background of known colour and a terminal.
const SESSION: &str = "\
#!/bin/sh
xsetroot -solid \"$(cat \"$HOME/colour\")\"
openbox &
exec xterm -geometry 60x12+80+40 -bg black -fg green -fn 10x20
";

fn xrdp_ini(address: SocketAddr) -> String {
    format!(
        "[Globals]
ini_version=1
fork=true
port=tcp://{address}
tcp_nodelay=true
security_layer=tls
certificate={INSIDE}/etc/host.crt
key_file={INSIDE}/etc/host.key
ssl_protocols=TLSv1.2, TLSv1.3
autorun=Xorg
allow_channels=true
max_bpp=32
use_fastpath=both
[Logging]
LogFile={INSIDE}/log/xrdp.log
LogLevel=INFO
EnableSyslog=false
[Channels]
drdynvc=true
cliprdr=true
[Xorg]
name=Xorg
lib=libxup.so
username=ask
password=ask
ip=127.0.0.1
port=-1
code=20
"
    )
}

fn sesman_ini(port: u16) -> String {
    // Abstract X sockets know no mount namespace: each host takes other display
    // numbers. 6000 plus the number must stay a port number.
    let first_display = 1_000 + u32::from(port % 1_000) * 50;
    format!(
        "[Globals]
ListenAddress=127.0.0.1
ListenPort={port}
EnableUserWindowManager=false
DefaultWindowManager={INSIDE}/etc/session.sh
ReconnectScript=/bin/true
[Security]
AllowRootLogin=false
[Sessions]
X11DisplayOffset={first_display}
MaxSessions=10
[Logging]
LogFile={INSIDE}/log/sesman.log
LogLevel=INFO
EnableSyslog=false
[Xorg]
param=/usr/lib/xorg/Xorg
param=-config
param=xrdp/xorg.conf
param=-noreset
param=-nolisten
param=tcp
param=-logfile
param=.xorgxrdp.%s.log
"
    )
}
