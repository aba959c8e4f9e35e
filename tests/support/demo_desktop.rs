//! The demo's RDP host behind a TCP port, where an agent finds its target.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringway::broker::ca::to_pem;
use ringway::demo::picture::{Image, find_square, first_mismatch_in_bars};
use ringway::demo::rdp_host::DemoHost;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use super::authority::Authority;
use super::desktop::Desktop;
use super::screen::{Screen, Window};
use super::wait::poll;

const USER: &str = "demo";
const PASSWORD: &str = "demo secret";
/// How far a colour may be off after it was compressed.
const TOLERANCE: u8 = 8;
/// Until a key must show.
const KEY_LIMIT: Duration = Duration::from_secs(3);
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Colours that the square has in turn.
const SQUARES: u32 = 3;

pub struct DemoDesktop {
    pub address: SocketAddr,
    host: Arc<DemoHost>,
    threads: Option<Runtime>,
}

impl DemoDesktop {
    pub fn start() -> Self {
        ringway::tls::install_provider();
        Self::behind_a_port(DemoHost::start(USER, PASSWORD).unwrap())
    }

    /// Its user gets in by a token of that authority as well.
    pub fn start_taking_tokens(authority: &Authority) -> Self {
        ringway::tls::install_provider();
        let host = DemoHost::start_taking_tokens(USER, PASSWORD, authority.token_logon());
        Self::behind_a_port(host.unwrap())
    }

    fn behind_a_port(host: DemoHost) -> Self {
        let host = Arc::new(host);
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        threads.spawn(accept_all(listener, Arc::clone(&host)));
        Self { address, host, threads: Some(threads) }
    }

    /// Ends it and every connection to it.
    pub fn stop(mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_timeout(STOP_LIMIT);
        }
    }

    /// The certificate that RDP's own TLS shows.
    pub fn certificate_pem(&self) -> String {
        to_pem(self.host.certificate_der())
    }
}

impl Drop for DemoDesktop {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            // Also where waiting is not allowed.
            threads.shutdown_background();
        }
    }
}

impl Desktop for DemoDesktop {
    fn account(&self) -> (&str, &str) {
        (USER, PASSWORD)
    }

    /// Every pixel of the bars.
    fn is_drawn(&self, screen: &Screen, window: &Window) -> Result<(), String> {
        let image = screen.picture(window).ok_or("the window cannot be seen")?;
        match first_mismatch_in_bars(&image.rgba, image.width, TOLERANCE) {
            None => Ok(()),
            Some(mismatch) => Err(format!("{mismatch:?}")),
        }
    }

    /// The square changes its colour.
    fn feels_typing(&self, screen: &Screen, window: &Window) -> bool {
        let square = || screen.picture(window).as_ref().and_then(presses_shown);
        let Some(before) = poll(KEY_LIMIT, square) else { return false };
        screen.press(window, "a");
        let changed = || square().is_some_and(|now| now != before).then_some(());
        poll(KEY_LIMIT, changed).is_some()
    }

    fn logs(&self) -> String {
        String::new()
    }
}

/// How often something was pressed, as far as the square's colour tells.
fn presses_shown(image: &Image) -> Option<u32> {
    let is_shown =
        |presses: &u32| find_square(&image.rgba, image.width, *presses, TOLERANCE).is_some();
    (0..SQUARES).find(is_shown)
}

async fn accept_all(listener: std::net::TcpListener, host: Arc<DemoHost>) {
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, Arc::clone(&host)));
    }
}

async fn serve(mut stream: TcpStream, host: Arc<DemoHost>) {
    let Ok(mut pipe) = host.connect() else { return };
    let _ended = tokio::io::copy_bidirectional(&mut stream, &mut pipe).await;
}
