//! Starts the other relays from their configurations, pinned to the relay's
//! core, each alone and fresh for its run, and ends them again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::engines::{Engine, Legs};
use crate::works::Scenario;

pub const RELAY_CORE: usize = 0;
pub const GENERATOR_CORE: usize = 1;

/// Ports of the private network namespace, below those that it gives out.
const RELAY_PORT: u16 = 7443;
const ANSWER_PORT: u16 = 7444;
const SINK_PORT: u16 = 7445;
const TUNNEL_PORT: u16 = 7446;

const SUITE: &str = "TLS_AES_128_GCM_SHA256";
/// Of the PKCS #12 file that rathole wants, and in its configuration.
const IDENTITY_PASSWORD: &str = "perf";

const START_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Where the programs of the rivals are and what they need to run.
pub struct Rivals {
    /// Root of the system that HAProxy and nginx are installed in.
    system: PathBuf,
    rathole: PathBuf,
    examples: PathBuf,
    /// Scratch: filled-in configurations, certificates, logs.
    folder: PathBuf,
    /// How many a process may have.
    descriptors: u32,
}

/// A relay that runs.
#[derive(Default)]
pub struct Running {
    children: Vec<Child>,
    measured: Vec<Pid>,
}

/// Where the bench finds its relay.
pub struct Target {
    engine: Engine,
    measured: Vec<Pid>,
}

impl Rivals {
    /// Writes what all configurations share: a certificate for the front ends.
    ///
    /// # Errors
    /// When a file cannot be written or rathole's identity cannot be made.
    pub fn prepare(
        cache: &Path,
        examples: &Path,
        folder: &Path,
        descriptors: u32,
    ) -> anyhow::Result<Self> {
        let rivals = Self {
            system: cache.join("debian"),
            rathole: cache.join("bin/rathole"),
            examples: examples.to_owned(),
            folder: folder.to_owned(),
            descriptors,
        };
        // rcgen's default key is ECDSA P-256.
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names)?;
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        fs::write(rivals.certificate(), format!("{chain}{key}"))?;
        fs::write(rivals.root(), chain)?;
        rivals.write_identity().context("cannot make rathole's PKCS #12 identity")?;
        Ok(rivals)
    }

    fn certificate(&self) -> PathBuf {
        self.folder.join("front.pem")
    }

    fn root(&self) -> PathBuf {
        self.folder.join("root.pem")
    }

    fn identity(&self) -> PathBuf {
        self.folder.join("front.pfx")
    }

    /// rathole reads PKCS #12 alone.
    fn write_identity(&self) -> anyhow::Result<()> {
        let output = self
            .of_system("usr/bin/openssl")
            .args(["pkcs12", "-export", "-passout", &format!("pass:{IDENTITY_PASSWORD}")])
            .arg("-in")
            .arg(self.certificate())
            .arg("-out")
            .arg(self.identity())
            .stdin(Stdio::null())
            .output()?;
        anyhow::ensure!(
            output.status.success(),
            "openssl: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    fn of_system(&self, program: &str) -> Command {
        self.with_system(&self.system.join(program))
    }

    /// A program with the other system's libraries. No chroot: paths stay what
    /// they are, and so does the process id.
    fn with_system(&self, program: &Path) -> Command {
        let arch = std::env::consts::ARCH;
        let libraries = self.system.join(format!("usr/lib/{arch}-linux-gnu"));
        let loader = match arch {
            "x86_64" => "ld-linux-x86-64.so.2".to_owned(),
            arch => format!("ld-linux-{arch}.so.1"),
        };
        let mut command = Command::new(libraries.join(loader));
        command.arg("--library-path").arg(&libraries).arg(program);
        // Not this machine's: options of another version.
        command.env("OPENSSL_CONF", self.system.join("etc/ssl/openssl.cnf"));
        command
    }

    fn haproxy(&self) -> Command {
        self.of_system("usr/sbin/haproxy")
    }

    fn nginx(&self) -> Command {
        self.of_system("usr/sbin/nginx")
    }

    /// With the OpenSSL that the others have.
    fn rathole(&self) -> Command {
        self.with_system(&self.rathole)
    }

    /// Versions for the report, by engine.
    pub fn versions(&self) -> Vec<(Engine, String)> {
        let mut haproxy = self.haproxy();
        haproxy.arg("-v");
        let mut nginx = self.nginx();
        nginx.arg("-v");
        let mut rathole = self.rathole();
        rathole.arg("--version");
        [(Engine::Haproxy, haproxy), (Engine::Nginx, nginx), (Engine::Rathole, rathole)]
            .map(|(engine, command)| (engine, version(command)))
            .into()
    }

    /// Writes a configuration with its words filled in.
    fn configure(&self, name: &str, template: &str) -> anyhow::Result<PathBuf> {
        let text = |path: &Path| path.display().to_string();
        let filled = [
            ("relay", RELAY_PORT.to_string()),
            ("answer", ANSWER_PORT.to_string()),
            ("sink", SINK_PORT.to_string()),
            ("tunnel", TUNNEL_PORT.to_string()),
            ("suite", SUITE.to_owned()),
            ("descriptors", self.descriptors.to_string()),
            ("certificate", text(&self.certificate())),
            ("root", text(&self.root())),
            ("identity", text(&self.identity())),
            ("run", text(&self.folder)),
            ("modules", text(&self.system.join("usr/lib/nginx/modules"))),
        ]
        .iter()
        .fold(template.to_owned(), |filled, (word, value)| {
            filled.replace(&format!("@{word}@"), value)
        });
        let path = self.folder.join(name);
        fs::write(&path, filled).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Starts a relay and waits until it listens. Nothing runs for those that the
    /// bench starts itself or does without.
    ///
    /// # Errors
    /// When it does not start, with what it said.
    pub fn start(&self, engine: Engine) -> anyhow::Result<Running> {
        let mut running = Running::default();
        let (core, beside) = (RELAY_CORE, GENERATOR_CORE);
        match engine {
            Engine::Ringway | Engine::Floor | Engine::Direct | Engine::DirectTcp => {
                return Ok(running);
            }
            Engine::Haproxy => {
                let config =
                    self.configure("haproxy.cfg", include_str!("../rivals/haproxy.cfg"))?;
                let mut haproxy = self.haproxy();
                haproxy.args(["-db", "-f"]).arg(config);
                running.add(core, "haproxy", &haproxy, &self.folder)?;
                running.wait_for(&[RELAY_PORT, ANSWER_PORT], 1)?;
            }
            Engine::Nginx => {
                let config = self.configure("nginx.conf", include_str!("../rivals/nginx.conf"))?;
                let mut nginx = self.nginx();
                nginx.args(["-e", "stderr", "-p"]).arg(&self.folder).arg("-c").arg(config);
                running.add(core, "nginx", &nginx, &self.folder)?;
                running.wait_for(&[RELAY_PORT, ANSWER_PORT], 2)?;
            }
            Engine::Rathole => {
                let config =
                    self.configure("server.toml", include_str!("../rivals/rathole-server.toml"))?;
                let mut server = self.rathole();
                server.arg("--server").arg(config).env("RUST_LOG", "error");
                running.add(core, "rathole-server", &server, &self.folder)?;
                running.wait_for(&[TUNNEL_PORT], 1)?;
                let config =
                    self.configure("client.toml", include_str!("../rivals/rathole-client.toml"))?;
                let mut client = self.rathole();
                client.arg("--client").arg(config).env("RUST_LOG", "error");
                let measured = running.measured.clone();
                running.add(beside, "rathole-client", &client, &self.folder)?;
                running.wait_for(&[RELAY_PORT], 2)?;
                running.measured = measured;
            }
            Engine::Epoll => {
                let mut epoll = Command::new(self.examples.join("epoll"));
                epoll.args(["--listen", &address(RELAY_PORT), "--sink", &address(SINK_PORT)]);
                running.add(core, "epoll", &epoll, &self.folder)?;
                running.wait_for(&[RELAY_PORT], 1)?;
            }
        }
        Ok(running)
    }
}

impl Running {
    /// What to tell the bench; `None` when it starts its own gateway.
    pub fn target(&self, engine: Engine) -> Option<Target> {
        (engine != Engine::Ringway).then(|| Target { engine, measured: self.measured.clone() })
    }

    fn add(&mut self, core: usize, name: &str, run: &Command, logs: &Path) -> anyhow::Result<()> {
        let log = File::create(logs.join(format!("{name}.log")))?;
        let mut pinned = Command::new("taskset");
        pinned.arg("--cpu-list").arg(core.to_string());
        pinned.arg(run.get_program()).args(run.get_args());
        pinned.envs(run.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let child = pinned
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        self.children.push(child);
        Ok(())
    }

    /// Until all ports listen and so many processes run.
    fn wait_for(&mut self, ports: &[u16], processes: usize) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            for child in &mut self.children {
                if let Some(status) = child.try_wait()? {
                    bail!("ended when it was started: {status}");
                }
            }
            self.measured = self.children.iter().flat_map(|child| family(child.id())).collect();
            if self.measured.len() >= processes && ports.iter().all(|port| listens(*port)) {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "does not listen on {ports:?}");
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Ends them; the ports are free afterwards.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        for child in &self.children {
            kill_process(Pid::from_child(child), Signal::TERM).ok();
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        for mut child in self.children.drain(..) {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(LOOK_EVERY);
            }
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

impl Target {
    /// Arguments of `ringway bench` that lead it through this relay.
    pub fn arguments(&self, scenario: Scenario) -> Vec<String> {
        let scheme = if self.engine.legs() == Legs::Tls { "tls" } else { "tcp" };
        let sink = format!("{scheme}://{}", address(SINK_PORT));
        let through = match (self.engine, scenario) {
            (Engine::Direct | Engine::DirectTcp, _) => sink.clone(),
            (_, Scenario::Handshake) => format!("{scheme}://{}", address(ANSWER_PORT)),
            _ => format!("{scheme}://{}", address(RELAY_PORT)),
        };
        let mut arguments = vec!["--through".to_owned(), through, "--sink".to_owned(), sink];
        for process in &self.measured {
            arguments.extend(["--pid".to_owned(), process.as_raw_pid().to_string()]);
        }
        arguments
    }
}

fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// A process and its children: nginx works in one.
fn family(parent: u32) -> Vec<Pid> {
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in brackets, may contain anything.
        let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        after_name.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    std::iter::once(parent)
        .chain(ids.filter(is_child))
        .filter_map(|id| Pid::from_raw(i32::try_from(id).ok()?))
        .collect()
}

/// Whether somebody listens on that port here. Looks into the kernel's table: a
/// trial connection would be relayed.
fn listens(port: u16) -> bool {
    const LISTEN: &str = "0A";
    let local = format!(":{port:04X}");
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    table.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.nth(1).is_some_and(|field| field.ends_with(&local)) && fields.nth(1) == Some(LISTEN)
    })
}

/// The first number with dots in it that a program prints about itself.
fn version(mut command: Command) -> String {
    let Ok(output) = command.stdin(Stdio::null()).output() else { return "unknown".to_owned() };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let is_version =
        |word: &&str| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.');
    said.split([' ', '/', '\n', '\t']).find(is_version).unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_listens_when_somebody_does() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(listens(listener.local_addr().unwrap().port()));
        assert!(!listens(0));
    }

    #[test]
    fn every_word_of_a_configuration_is_filled_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let rivals = Rivals {
            system: path("debian"),
            rathole: path("rathole"),
            examples: path("examples"),
            folder: folder.path().to_owned(),
            descriptors: 1_000,
        };
        for template in [
            include_str!("../rivals/haproxy.cfg"),
            include_str!("../rivals/nginx.conf"),
            include_str!("../rivals/rathole-server.toml"),
            include_str!("../rivals/rathole-client.toml"),
        ] {
            let written = rivals.configure("filled", template).unwrap();
            let filled = fs::read_to_string(written).unwrap();
            let left = filled.lines().find(|line| line.contains('@') && !line.contains("@words@"));
            assert_eq!(left, None);
            assert!(filled.contains("744"));
        }
    }

    #[test]
    fn a_family_has_its_head_and_its_children() {
        let mut child = Command::new("sleep").arg("20").spawn().unwrap();
        let family = family(std::process::id());
        assert!(family.contains(&rustix::process::getpid()));
        assert!(family.contains(&Pid::from_child(&child)));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_bench_is_led_through_the_relay_or_past_it() {
        let said = |engine, scenario| {
            let measured = vec![rustix::process::getpid()];
            Target { engine, measured }.arguments(scenario).join(" ")
        };
        assert!(
            said(Engine::Haproxy, Scenario::Bulk(1))
                .starts_with("--through tls://127.0.0.1:7443 --sink tls://127.0.0.1:7445 --pid ")
        );
        assert!(
            said(Engine::Nginx, Scenario::Handshake).starts_with("--through tls://127.0.0.1:7444")
        );
        assert!(
            said(Engine::DirectTcp, Scenario::Mix(1))
                .starts_with("--through tcp://127.0.0.1:7445 --sink tcp://127.0.0.1:7445")
        );
    }
}
