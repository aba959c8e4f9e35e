//! A session host in this process: an RDP server that paints a moving
//! [`picture`](super::picture) and checks one user's password, or takes that
//! user's token instead.
//!
//! It listens nowhere. Whoever holds the [`DemoHost`] asks it for one end of a
//! pipe per session, as an agent would dial its target. `ironrdp`'s server is
//! not `Send`, so all sessions share one thread with its own runtime.

use std::collections::VecDeque;
use std::io;
use std::num::{NonZeroU16, NonZeroUsize};
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ironrdp::server::{
    BitmapUpdate, CredentialDecision, CredentialValidationError, CredentialValidator, Credentials,
    DesktopSize, DisplayUpdate, KeyboardEvent, MouseEvent, PixelFormat, RdpServer,
    RdpServerDisplay, RdpServerDisplayUpdates, RdpServerInputHandler, ServerEvent,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::picture::{self, Rect, Scene};
use super::world::{DESKTOP, HOST};
use crate::agent::rdsaad::{Entrance, TokenLogon};
use crate::tls::settings::TlsSettings;

/// The name in the host's certificate.
pub const HOST_NAME: &str = "ringway-demo-host";
/// And those under which clients may know it: where our connector listens, and
/// what stands as the address in the .rdp file.
pub const NAMES: [&str; 3] = [HOST_NAME, HOST, DESKTOP];

/// Sessions at once; each costs about 6 MB for the picture as last sent.
pub const SESSIONS_MAX: usize = 64;
/// Bytes in the pipe per direction before the writer waits.
const PIPE_CAPACITY_BYTES: usize = 64 * 1024;
/// From the first byte to the end of RDP's connection sequence.
const HANDSHAKE_TIMEOUT_MS: u64 = 15_000;
/// For the goodbye of all sessions when the host stops.
const SHUTDOWN_GRACE_MS: u64 = 2_000;
const FRAME_INTERVAL_MS: u64 = 50;
/// Threads that encode pictures.
const ENCODER_THREADS_MAX: usize = 2;

/// Why the host did not start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("cannot make the host's certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("cannot use the host's certificate: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot start the host's thread: {0}")]
    Thread(#[from] io::Error),
}

/// A running host. Dropping it ends all its sessions.
#[derive(Debug)]
pub struct DemoHost {
    certificate: CertificateDer<'static>,
    sessions: mpsc::Sender<NewSession>,
    places: Arc<Semaphore>,
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct NewSession {
    stream: DuplexStream,
    place: OwnedSemaphorePermit,
}

impl DemoHost {
    /// Starts a host with a new key and certificate that lets `user` in.
    ///
    /// # Errors
    /// When the certificate cannot be made or the thread cannot be started.
    pub fn start(user: &str, password: &str) -> Result<Self, HostError> {
        Self::start_with(user, password, None)
    }

    /// The same; clients that offer RDSAAD get in by a token for `user`, and
    /// need no password.
    ///
    /// # Errors
    /// As [`DemoHost::start`].
    pub fn start_taking_tokens(
        user: &str,
        password: &str,
        tokens: TokenLogon,
    ) -> Result<Self, HostError> {
        Self::start_with(user, password, Some(tokens))
    }

    fn start_with(
        user: &str,
        password: &str,
        tokens: Option<TokenLogon>,
    ) -> Result<Self, HostError> {
        let identity = rcgen::generate_simple_self_signed(NAMES.map(str::to_owned))?;
        let certificate = identity.cert.der().clone();
        let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der())
            .map_err(|error| rustls::Error::General(error.to_owned()))?;
        let tls = TlsSettings::default().server(vec![certificate.clone()], key)?;

        let party = Party {
            tls: TlsAcceptor::from(Arc::new(tls)),
            account: Arc::new(Account {
                user: user.to_owned(),
                password: Zeroizing::new(password.to_owned()),
            }),
            tokens,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(ENCODER_THREADS_MAX)
            .build()?;
        let (sessions, new_sessions) = mpsc::channel(SESSIONS_MAX);
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::Builder::new().name("demo-host".to_owned()).spawn(move || {
            LocalSet::new().block_on(&runtime, serve_all(party, new_sessions, stopped));
        })?;
        let places = Arc::new(Semaphore::new(SESSIONS_MAX));
        Ok(Self { certificate, sessions, places, stop, thread })
    }

    /// Begins a session and returns the client's end of it.
    ///
    /// # Errors
    /// `WouldBlock` when the host has as many sessions as it may,
    /// `ConnectionRefused` when it has stopped.
    pub fn connect(&self) -> io::Result<DuplexStream> {
        let full = || io::Error::new(io::ErrorKind::WouldBlock, "the demo host is full");
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| full())?;
        let (near, far) = tokio::io::duplex(PIPE_CAPACITY_BYTES);
        match self.sessions.try_send(NewSession { stream: far, place }) {
            Ok(()) => Ok(near),
            Err(mpsc::error::TrySendError::Full(_)) => Err(full()),
            Err(mpsc::error::TrySendError::Closed(_)) => {
                Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the demo host has stopped"))
            }
        }
    }

    /// The certificate that RDP's own TLS shows, for clients to pin.
    #[must_use]
    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Says goodbye to all sessions and waits for the thread.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        let thread = self.thread;
        let ended = tokio::task::spawn_blocking(move || thread.join().is_ok()).await;
        if !ended.unwrap_or(false) {
            tracing::warn!("The demo host's thread ended with a panic");
        }
    }
}

/// What all sessions share.
struct Party {
    tls: TlsAcceptor,
    account: Arc<Account>,
    /// Who comes with a token is judged here.
    tokens: Option<TokenLogon>,
}

async fn serve_all(
    party: Party,
    mut new_sessions: mpsc::Receiver<NewSession>,
    mut stopped: watch::Receiver<bool>,
) {
    let party = Rc::new(party);
    let told_to_sessions = stopped.clone();
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            // An error means that the handle is gone: stop as well.
            _ = stopped.wait_for(|stop| *stop) => break,
            Some(_ended) = sessions.join_next() => {}
            new = new_sessions.recv() => match new {
                Some(new) => {
                    sessions.spawn_local(serve(Rc::clone(&party), new, told_to_sessions.clone()));
                }
                None => break,
            },
        }
    }
    let all_ended = async { while sessions.join_next().await.is_some() {} };
    // Twice the grace of one session: each ends itself at its own.
    let _cut_off = tokio::time::timeout(ms(2 * SHUTDOWN_GRACE_MS), all_ended).await;
}

/// One session, from the first byte to the last.
async fn serve(party: Rc<Party>, new: NewSession, mut stopped: watch::Receiver<bool>) {
    let NewSession { stream, place: _held_to_the_end } = new;
    let Some(tokens) = &party.tokens else {
        return carry(&party, stream, Security::Password, stopped).await;
    };
    let greeting = tokens.greet(stream, &party.tls, |user| user.name == party.account.user);
    let entrance = tokio::select! {
        entrance = greeting => entrance,
        _ = stopped.wait_for(|stop| *stop) => return,
    };
    match entrance {
        Ok(Entrance::Token { user, stream }) => {
            tracing::info!(step = 12, user = user.name, "A token logged its user on");
            carry(&party, stream, Security::Passed, stopped).await;
        }
        Ok(Entrance::Other(stream)) => carry(&party, stream, Security::Password, stopped).await,
        Err(error) => {
            tracing::info!(step = 12, %error, "The demo host let nobody in");
        }
    }
}

/// What is left to do about a client's security.
#[derive(Clone, Copy)]
enum Security {
    /// TLS, then a user and a password.
    Password,
    /// Nothing.
    Passed,
}

/// RDP, to its end.
async fn carry<S>(
    party: &Party,
    mut stream: S,
    security: Security,
    mut stopped: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Send + Sync + Unpin,
{
    let seen = Arc::new(Mutex::new(Seen::default()));
    let connected = Arc::new(Notify::new());
    // Named by the builder, bound only by its own accept loop.
    let builder = RdpServer::builder().with_addr(([127, 0, 0, 1], 0));
    let (builder, account) = match security {
        Security::Password => {
            (builder.with_tls(party.tls.clone()), Some(Arc::clone(&party.account) as _))
        }
        Security::Passed => (builder.with_no_security(), None),
    };
    let mut server = builder
        .with_input_handler(Input { seen: Arc::clone(&seen) })
        .with_display_handler(Display { seen, connected: Arc::clone(&connected) })
        .with_credential_validator(account)
        .build();
    let goodbye = server.event_sender().clone();
    {
        let mut running = pin!(server.run_connection(&mut stream));
        let too_slow = async {
            let done = tokio::time::timeout(ms(HANDSHAKE_TIMEOUT_MS), connected.notified()).await;
            if done.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            outcome = &mut running => match outcome {
                Ok(()) => tracing::debug!(step = 12, "The session at the demo host ended"),
                Err(error) => {
                    tracing::info!(step = 12, error = format!("{error:#}"), "The demo host ended a session");
                }
            },
            () = too_slow => {
                tracing::info!(step = 12, "A client of the demo host did not finish its handshake");
            }
            _ = stopped.wait_for(|stop| *stop) => {
                let _client_is_gone = goodbye.send(ServerEvent::Quit("the demo ends".to_owned()));
                let _cut_off = tokio::time::timeout(ms(SHUTDOWN_GRACE_MS), running).await;
            }
        }
    }
    // TLS that was up before the server came is not the server's to end.
    let _gone = tokio::time::timeout(ms(SHUTDOWN_GRACE_MS), stream.shutdown()).await;
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The one user that may in.
struct Account {
    user: String,
    password: Zeroizing<String>,
}

#[async_trait::async_trait]
impl CredentialValidator for Account {
    /// The domain is not compared: clients fill it in as they like.
    async fn validate(
        &self,
        given: &Credentials,
    ) -> Result<CredentialDecision, CredentialValidationError> {
        let password_fits = aws_lc_rs::constant_time::verify_slices_are_equal(
            given.password.as_bytes(),
            self.password.as_bytes(),
        );
        Ok(if given.username == self.user && password_fits.is_ok() {
            CredentialDecision::Accept
        } else {
            CredentialDecision::Reject
        })
    }
}

/// What the user did, as far as the picture shows it.
#[derive(Debug, Default)]
struct Seen {
    pointer: Option<(u16, u16)>,
    presses: u32,
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    // Two numbers are never half written.
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Input {
    seen: Arc<Mutex<Seen>>,
}

impl RdpServerInputHandler for Input {
    fn keyboard(&mut self, event: KeyboardEvent) {
        if matches!(event, KeyboardEvent::Pressed { .. } | KeyboardEvent::UnicodePressed(_)) {
            let mut seen = lock(&self.seen);
            seen.presses = seen.presses.wrapping_add(1);
        }
    }

    fn mouse(&mut self, event: MouseEvent) {
        let mut seen = lock(&self.seen);
        match event {
            MouseEvent::Move { x, y } => seen.pointer = Some((x, y)),
            MouseEvent::LeftPressed | MouseEvent::RightPressed | MouseEvent::MiddlePressed => {
                seen.presses = seen.presses.wrapping_add(1);
            }
            _ => {}
        }
    }
}

struct Display {
    seen: Arc<Mutex<Seen>>,
    connected: Arc<Notify>,
}

#[async_trait::async_trait]
impl RdpServerDisplay for Display {
    async fn size(&mut self) -> DesktopSize {
        DesktopSize { width: picture::WIDTH, height: picture::HEIGHT }
    }

    /// Asked for when the connection sequence is over and the user was let in.
    async fn updates(&mut self) -> anyhow::Result<Box<dyn RdpServerDisplayUpdates>> {
        self.connected.notify_one();
        let mut frames = tokio::time::interval(ms(FRAME_INTERVAL_MS));
        // A slow client skips frames instead of getting them late.
        frames.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Ok(Box::new(Updates {
            seen: Arc::clone(&self.seen),
            began: Instant::now(),
            frames,
            scene: Scene::default(),
            damage: VecDeque::from([Rect::DESKTOP]),
        }))
    }
}

struct Updates {
    seen: Arc<Mutex<Seen>>,
    began: Instant,
    frames: Interval,
    scene: Scene,
    /// Parts of `scene` that the client does not have yet.
    damage: VecDeque<Rect>,
}

#[async_trait::async_trait]
impl RdpServerDisplayUpdates for Updates {
    /// Cancel safe: between taking from the queue and returning nothing waits.
    async fn next_update(&mut self) -> anyhow::Result<Option<DisplayUpdate>> {
        loop {
            if let Some(update) = self.damage.pop_front().and_then(|part| update(&self.scene, part))
            {
                return Ok(Some(update));
            }
            self.frames.tick().await;
            let elapsed_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let seen = lock(&self.seen);
            let now = Scene { elapsed_ms, pointer: seen.pointer, presses: seen.presses };
            drop(seen);
            self.damage.extend(now.damage_since(&self.scene));
            self.scene = now;
        }
    }
}

fn update(scene: &Scene, part: Rect) -> Option<DisplayUpdate> {
    Some(DisplayUpdate::Bitmap(BitmapUpdate {
        x: part.x,
        y: part.y,
        width: NonZeroU16::new(part.width)?,
        height: NonZeroU16::new(part.height)?,
        format: PixelFormat::BgrA32,
        data: scene.paint_bgra(part).into(),
        stride: NonZeroUsize::new(usize::from(part.width) * 4)?,
    }))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::demo::rdp_client::{self, ClientSettings};

    #[tokio::test]
    async fn a_full_host_says_so_and_gets_its_places_back() {
        let host = DemoHost::start("demo", "secret").unwrap();
        let sessions: Vec<_> = (0..SESSIONS_MAX).map(|_| host.connect().unwrap()).collect();
        let full = host.connect().unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        drop(sessions);
        let free_again = async {
            while host.connect().is_err() {
                tokio::time::sleep(ms(5)).await;
            }
        };
        tokio::time::timeout(ms(10_000), free_again).await.unwrap();
        host.shutdown().await;
    }

    #[tokio::test]
    async fn garbage_ends_its_own_session_only() {
        let host = DemoHost::start("demo", "secret").unwrap();
        let bystander = host.connect().unwrap();
        let mut garbage = host.connect().unwrap();
        garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(ms(10_000), garbage.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "the host kept a connection that is no RDP");
        let settings = ClientSettings {
            user: "demo".into(),
            password: Zeroizing::new("secret".into()),
            host_certificate: host.certificate_der().clone(),
            host_name: HOST_NAME.into(),
            deadline_ms: 60_000,
        };
        assert!(rdp_client::watch(bystander, &settings).await.unwrap().pixels_verified);
        host.shutdown().await;
    }
}
