//! A user in front of a real client: FreeRDP on a virtual display, with eyes
//! (a pixel of the screen) and hands (mouse and keyboard).

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

use super::process::Process;
use super::programs::available;
use super::wait::poll;
use super::xrdp::{PASSWORD, User, XrdpHost};

const START_LIMIT: Duration = Duration::from_secs(20);
/// xrdp starts an X server first; two at once on two busy cores take a while.
const DESKTOP_LIMIT: Duration = Duration::from_secs(60);
/// One attempt at typing, until the file must be there.
const TYPING_LIMIT: Duration = Duration::from_secs(3);
const TYPING_ATTEMPTS: u32 = 10;
/// Inside the session's window: bare background, and inside the terminal.
const BACKGROUND: (u32, u32) = (60, 600);
const TERMINAL: (u32, u32) = (300, 150);

/// Whether the programs of the user's side are there.
pub fn client_available() -> bool {
    available(&["xfreerdp", "Xvfb", "openbox", "xdotool", "import", "setpriv"])
}

pub struct RdpClientRun {
    user: User,
    display: String,
    client: Process,
    _window_manager: Process,
    _screen: Process,
    folder: TempDir,
}

impl RdpClientRun {
    /// Starts a screen of its own and the client on it, towards `address`.
    pub fn start(address: SocketAddr, user: User) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (screen, display) = start_screen(&folder);
        let mut window_manager = Command::new("openbox");
        window_manager.env("DISPLAY", &display).env("HOME", folder.path());
        let window_manager = Process::start(folder.path(), "openbox", &window_manager);
        let mut client = Command::new("xfreerdp");
        client
            .arg(format!("/v:{address}"))
            .arg(format!("/u:{}", user.name))
            .arg(format!("/p:{PASSWORD}"))
            .args(["/cert:ignore", "/sec:tls", "/size:1024x700"])
            .env("DISPLAY", &display)
            .env("HOME", folder.path());
        let client = Process::start(folder.path(), &format!("xfreerdp-{}", user.name), &client);
        Self { user, display, client, _window_manager: window_manager, _screen: screen, folder }
    }

    /// The three verdicts; the client's exit code is none. Panics with every
    /// log when one is missing.
    pub fn assert_desktop_works(&mut self, host: &XrdpHost) {
        let name = self.user.name;
        let fail = |run: &Self, what: &str| -> ! {
            panic!("{name}: {what}\n{}{}", run.client.last_words(), host.logs())
        };
        let Some(window) = poll(START_LIMIT, || self.window()) else {
            fail(self, "the client opened no window");
        };
        let mut seen = String::new();
        let painted = poll(DESKTOP_LIMIT, || {
            seen = self.pixel(&window)?;
            (seen == self.user.colour).then_some(())
        });
        if painted.is_none() {
            fail(self, &format!("background is {seen}, should be {}", self.user.colour));
        }
        if !host.logged_in(self.user, START_LIMIT) {
            fail(self, "xrdp logged no successful login");
        }
        let file = host.home(self.user).join("TYPED_OK");
        if !self.type_until_it_exists(&window, &file) {
            fail(self, &format!("typing made no {}", file.display()));
        }
        if !self.client.is_running() {
            fail(self, "the client ended");
        }
        eprintln!("{name}: pixel {seen}, login logged, {} typed", file.display());
    }

    /// Whether its screen still shows the user's own colour.
    pub fn shows_own_desktop(&self) -> bool {
        self.window().and_then(|w| self.pixel(&w)).is_some_and(|p| p == self.user.colour)
    }

    fn window(&self) -> Option<String> {
        let found = self.tool("xdotool", &["search", "--name", "^FreeRDP"]);
        String::from_utf8_lossy(&found.stdout).lines().last().map(ToOwned::to_owned)
    }

    fn pixel(&self, window: &str) -> Option<String> {
        let area = format!("1x1+{}+{}", BACKGROUND.0, BACKGROUND.1);
        let arguments = ["-window", window, "-crop", &area, "-depth", "8", "txt:-"];
        let shot = self.tool("import", &arguments);
        let text = String::from_utf8_lossy(&shot.stdout).into_owned();
        text.split_whitespace()
            .find(|word| word.starts_with('#') && word.len() == 7)
            .map(ToOwned::to_owned)
    }

    /// The session's window manager may not have focused the terminal yet, so
    /// this clicks and types again until the host has the file.
    fn type_until_it_exists(&self, window: &str, file: &Path) -> bool {
        let (x, y) = (TERMINAL.0.to_string(), TERMINAL.1.to_string());
        (0..TYPING_ATTEMPTS).any(|_| {
            self.tool("xdotool", &["windowactivate", "--sync", window]);
            self.tool("xdotool", &["mousemove", "--window", window, &x, &y, "click", "1"]);
            self.tool("xdotool", &["key", "ctrl+u"]);
            self.tool("xdotool", &["type", "--delay", "60", "touch TYPED_OK"]);
            self.tool("xdotool", &["key", "Return"]);
            poll(TYPING_LIMIT, || file.exists().then_some(())).is_some()
        })
    }

    /// One look or one movement; `timeout` because xdotool can wait for ever.
    fn tool(&self, program: &str, arguments: &[&str]) -> Output {
        Command::new("timeout")
            .args(["15", program])
            .args(arguments)
            .env("DISPLAY", &self.display)
            .env("HOME", self.folder.path())
            .output()
            .unwrap()
    }
}

/// A virtual screen; the X server itself finds a free number.
fn start_screen(folder: &TempDir) -> (Process, String) {
    let mut command = Command::new("Xvfb");
    command.args("-displayfd 1 -screen 0 1280x900x24 -nolisten tcp".split(' '));
    let screen = Process::start(folder.path(), "Xvfb", &command);
    let number = poll(START_LIMIT, || {
        screen.printed().lines().find_map(|line| line.trim().parse::<u32>().ok())
    });
    let Some(number) = number else { panic!("no screen\n{}", screen.last_words()) };
    (screen, format!(":{number}"))
}
