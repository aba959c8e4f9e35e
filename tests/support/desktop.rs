//! Desktops as a person would judge them: is it drawn, and does the host notice
//! what is typed.

use std::time::Duration;

use super::screen::{Screen, Window};
use super::stock_client::StockClient;
use super::wait::poll;
use super::xrdp::{PASSWORD, User, XrdpHost};

/// xrdp starts an X server first; several at once on two busy cores take a while.
const DRAWING_LIMIT: Duration = Duration::from_secs(60);
const TYPING_ATTEMPTS: u32 = 10;

/// What is at the end of a session.
pub trait Desktop {
    /// User and password.
    fn account(&self) -> (&str, &str);

    /// Whether the window shows it; if not, what is there instead.
    ///
    /// # Errors
    /// What is seen.
    fn is_drawn(&self, screen: &Screen, window: &Window) -> Result<(), String>;

    /// Types something; whether the host noticed.
    fn feels_typing(&self, screen: &Screen, window: &Window) -> bool;

    fn logs(&self) -> String;
}

impl<D: Desktop> Desktop for &D {
    fn account(&self) -> (&str, &str) {
        (*self).account()
    }

    fn is_drawn(&self, screen: &Screen, window: &Window) -> Result<(), String> {
        (*self).is_drawn(screen, window)
    }

    fn feels_typing(&self, screen: &Screen, window: &Window) -> bool {
        (*self).feels_typing(screen, window)
    }

    fn logs(&self) -> String {
        (*self).logs()
    }
}

/// Panics with every log unless the client shows the desktop and what is typed
/// there arrives. The client's exit code is no verdict.
pub fn assert_works(client: &mut StockClient, desktop: &dyn Desktop) -> Window {
    let window = assert_shows(client, desktop);
    // The session's window manager may not have focused the terminal yet.
    if !(0..TYPING_ATTEMPTS).any(|_| desktop.feels_typing(&client.screen, &window)) {
        fail(client, desktop, "the host noticed no typing");
    }
    if !client.is_running() {
        fail(client, desktop, "the client ended");
    }
    window
}

/// Panics with every log unless the client shows the desktop.
pub fn assert_shows(client: &mut StockClient, desktop: &dyn Desktop) -> Window {
    client.window();
    let mut seen = String::new();
    let drawn = poll(DRAWING_LIMIT, || {
        // Another one when it connected once more.
        let window = client.screen.window();
        let drawn = window.ok_or_else(|| "no window".to_owned()).and_then(|window| {
            desktop.is_drawn(&client.screen, &window)?;
            Ok(window)
        });
        match drawn {
            Ok(window) => Some(Some(window)),
            Err(instead) => {
                seen = instead;
                (!client.is_running()).then_some(None)
            }
        }
    });
    drawn.flatten().unwrap_or_else(|| fail(client, desktop, &seen))
}

fn fail(client: &StockClient, desktop: &dyn Desktop, what: &str) -> ! {
    let (version, picture) = (client.version, client.screen.keep_picture());
    let logs = (client.last_words(), desktop.logs());
    panic!("{version}: {what} (seen: {})\n{}{}", picture.display(), logs.0, logs.1)
}

/// The desktop of one user of an xrdp host: a background of their colour, and a
/// terminal.
pub struct XrdpDesktop<'a> {
    pub host: &'a XrdpHost,
    pub user: User,
}

/// Bare background, and a place inside the terminal.
const BACKGROUND: (u16, u16) = (60, 600);
const TERMINAL: (u16, u16) = (300, 150);
/// Until the file must be there.
const FILE_LIMIT: Duration = Duration::from_secs(3);

impl Desktop for XrdpDesktop<'_> {
    fn account(&self) -> (&str, &str) {
        (self.user.name, PASSWORD)
    }

    fn is_drawn(&self, screen: &Screen, window: &Window) -> Result<(), String> {
        let seen = screen.pixel(window, BACKGROUND.0, BACKGROUND.1);
        let seen = seen.ok_or("the window cannot be seen")?;
        if seen == self.user.colour {
            return Ok(());
        }
        Err(format!("the background is {seen}, should be {}", self.user.colour))
    }

    /// A file appears in the user's home.
    fn feels_typing(&self, screen: &Screen, window: &Window) -> bool {
        let file = self.host.home(self.user).join("TYPED_OK");
        std::fs::remove_file(&file).ok();
        screen.click(window, TERMINAL.0, TERMINAL.1);
        screen.press(window, "ctrl+u");
        screen.write("touch TYPED_OK");
        screen.press(window, "Return");
        poll(FILE_LIMIT, || file.exists().then_some(())).is_some()
    }

    fn logs(&self) -> String {
        self.host.logs()
    }
}
