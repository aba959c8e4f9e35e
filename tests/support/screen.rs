//! A user's screen: an X server of its own with a window manager, and on it
//! eyes (pixels) and hands (mouse and keyboard).

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use ringway::demo::picture::Image;
use tempfile::TempDir;

use super::process::Process;
use super::programs::available;
use super::wait::poll;

const START_LIMIT: Duration = Duration::from_secs(20);
/// Below the middle of a title bar of openbox, in pixels above the window.
const TITLE_BAR: i32 = -8;

/// Whether the programs that make a screen are there.
pub fn available_here() -> bool {
    available(&["Xvfb", "openbox", "xdotool", "import", "setpriv"])
}

pub struct Screen {
    /// As in `DISPLAY`.
    pub display: String,
    folder: TempDir,
    _window_manager: Process,
    _server: Process,
}

/// A client's window, for [`Screen`]'s eyes and hands.
#[derive(Clone, Debug)]
pub struct Window(String);

impl Screen {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (server, display) = start_server(folder.path());
        // In the middle, where it is now, it would point into the window.
        look(&folder, &display, "xdotool", &["mousemove", "1", "1"]);
        let settings = folder.path().join("openbox.xml");
        std::fs::write(&settings, WINDOW_MANAGER).unwrap();
        let mut manager = Command::new("openbox");
        manager.arg("--config-file").arg(settings);
        manager.env("DISPLAY", &display).env("HOME", folder.path());
        let manager = Process::start(folder.path(), "openbox", &manager);
        Self { display, folder, _window_manager: manager, _server: server }
    }

    /// A place for files, which is gone with the screen.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The window of FreeRDP; it appears when the session is there.
    pub fn window(&self) -> Option<Window> {
        let found = self.tool("xdotool", &["search", "--name", "^FreeRDP"]);
        let found = String::from_utf8_lossy(&found.stdout).into_owned();
        found.lines().last().map(|id| Window(id.to_owned()))
    }

    /// One pixel of a window as `#RRGGBB`, counted from its top left corner.
    pub fn pixel(&self, window: &Window, x: u16, y: u16) -> Option<String> {
        let area = format!("1x1+{x}+{y}");
        let arguments = ["-window", &window.0, "-crop", &area, "-depth", "8", "txt:-"];
        let shot = self.tool("import", &arguments);
        let text = String::from_utf8_lossy(&shot.stdout).into_owned();
        let mut words = text.split_whitespace();
        words.find(|word| word.starts_with('#') && word.len() == 7).map(ToOwned::to_owned)
    }

    /// All of a window.
    pub fn picture(&self, window: &Window) -> Option<Image> {
        let shot = self.tool("import", &["-window", &window.0, "-depth", "8", "ppm:-"]);
        image_of(&shot.stdout)
    }

    /// Keeps a picture of all that is seen, for whoever looks into a failure.
    pub fn keep_picture(&self) -> PathBuf {
        let name = format!("screen{}.png", self.display.replace(':', "-"));
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        self.tool("import", &["-window", "root", &file.to_string_lossy()]);
        file
    }

    pub fn click(&self, window: &Window, x: u16, y: u16) {
        self.tool("xdotool", &["windowactivate", "--sync", &window.0]);
        let (x, y) = (x.to_string(), y.to_string());
        self.tool("xdotool", &["mousemove", "--window", &window.0, &x, &y, "click", "1"]);
    }

    /// One key, by the name that X gives it.
    pub fn press(&self, window: &Window, key: &str) {
        self.tool("xdotool", &["windowactivate", "--sync", &window.0, "key", key]);
    }

    pub fn write(&self, text: &str) {
        self.tool("xdotool", &["type", "--delay", "60", text]);
    }

    /// Closes the window as its user does.
    pub fn close(&self, window: &Window) {
        let above = TITLE_BAR.to_string();
        let go = ["mousemove", "--window", &window.0, "--", "200", &above];
        self.tool("xdotool", &go);
        self.tool("xdotool", &["click", "2"]);
    }

    fn tool(&self, program: &str, arguments: &[&str]) -> Output {
        look(&self.folder, &self.display, program, arguments)
    }
}

/// One look or one movement; `timeout` because xdotool can wait for ever.
fn look(folder: &TempDir, display: &str, program: &str, arguments: &[&str]) -> Output {
    Command::new("timeout")
        .args(["15", program])
        .args(arguments)
        .env("DISPLAY", display)
        .env("HOME", folder.path())
        .output()
        .unwrap()
}

/// An X server; it finds a free number itself, and keeps what was set when the
/// first tool leaves it.
fn start_server(folder: &Path) -> (Process, String) {
    let mut command = Command::new("Xvfb");
    command.args("-displayfd 1 -noreset -screen 0 1280x900x24 -nolisten tcp".split(' '));
    let server = Process::start(folder, "Xvfb", &command);
    let number = poll(START_LIMIT, || {
        server.printed().lines().find_map(|line| line.trim().parse::<u32>().ok())
    });
    let Some(number) = number else { panic!("no screen\n{}", server.last_words()) };
    (server, format!(":{number}"))
}

/// Reads a binary PPM: `P6`, width, height, 255, pixels.
fn image_of(ppm: &[u8]) -> Option<Image> {
    let mut parts = ppm.splitn(4, |byte| byte.is_ascii_whitespace());
    let mut text = || std::str::from_utf8(parts.next()?).ok();
    if text()? != "P6" {
        return None;
    }
    let (width, height) = (text()?.parse().ok()?, text()?.parse().ok()?);
    let pixels = parts.next()?.strip_prefix(b"255\n")?;
    let rgba: Vec<u8> = pixels.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect();
    (rgba.len() == usize::from(width) * usize::from(height) * 4).then_some(Image {
        width,
        height,
        rgba,
    })
}

/// New windows are activated; a middle click on the title bar closes one, because
/// FreeRDP keeps every key to itself.
const WINDOW_MANAGER: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<openbox_config xmlns="http://openbox.org/3.4/rc">
<focus><focusNew>yes</focusNew></focus>
<placement><policy>Smart</policy><center>yes</center></placement>
<mouse>
<context name="Titlebar">
<mousebind button="Middle" action="Press"><action name="Close"/></mousebind>
</context>
<context name="Client">
<mousebind button="Left" action="Press"><action name="Focus"/><action name="Raise"/></mousebind>
</context>
</mouse>
</openbox_config>
"#;
