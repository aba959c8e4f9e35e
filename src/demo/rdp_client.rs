//! A user's RDP client in this process: goes through the whole connection
//! sequence over any stream, decodes what the host paints, and is content only
//! when every pixel of the bars is right and the square was seen to move.
//!
//! TLS with credentials, no network level authentication: what is to be proved
//! is the path, and that ends where RDP's own TLS begins.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ironrdp::connector::{self, ClientConnector, ClientConnectorState, ConnectorError};
use ironrdp::graphics::image_processing::PixelFormat;
use ironrdp::pdu::gcc::KeyboardType;
use ironrdp::pdu::rdp::capability_sets::{MajorPlatformType, client_codecs_capabilities};
use ironrdp::pdu::rdp::client_info::{PerformanceFlags, TimezoneInfo};
use ironrdp::session::image::DecodedImage;
use ironrdp::session::{ActiveStage, ActiveStageBuilder, ActiveStageOutput, SessionError};
use ironrdp_tokio::{FramedWrite as _, MovableTokioFramed, single_sequence_step};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use super::picture::{self, Image};
use crate::tls::settings::TlsSettings;

/// Different places of the square that prove that the picture is live.
pub const SQUARE_POSITIONS_MIN: usize = 2;
/// The codec that host and client agree on (QOI) loses nothing.
const COLOUR_TOLERANCE: u8 = 0;
/// For the host's part of the goodbye; the picture is verified already.
const GOODBYE_TIMEOUT_MS: u64 = 2_000;

/// What a session needs besides a stream.
pub struct ClientSettings {
    pub user: String,
    pub password: Zeroizing<String>,
    /// The only certificate that the host may show.
    pub host_certificate: CertificateDer<'static>,
    /// The name in it.
    pub host_name: String,
    /// For everything up to the verified picture.
    pub deadline_ms: u64,
}

impl std::fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientSettings").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What was seen. All times count from the first byte that the client sent.
#[derive(Clone, Debug)]
pub struct ClientReport {
    /// The desktop at the moment when it was verified.
    pub image: Image,
    /// Graphics updates up to then.
    pub updates: u32,
    /// True in every report: without it there is an error instead.
    pub pixels_verified: bool,
    /// Different places in which the square was seen.
    pub square_positions: usize,
    /// RDP's own TLS stands.
    pub tls_after: Duration,
    /// RDP's connection sequence is over.
    pub connected_after: Duration,
    pub first_pixel_after: Duration,
    pub verified_after: Duration,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("RDP's connection sequence failed: {0}")]
    Connect(#[source] ConnectorError),
    #[error("RDP's own TLS failed, the host is not the one expected: {0}")]
    Tls(#[source] io::Error),
    #[error("the host's certificate is not the expected one")]
    WrongCertificate,
    #[error("the pinned certificate or its name cannot be used: {0}")]
    Pin(String),
    #[error("what the host sent cannot be decoded: {0}")]
    Decode(#[source] SessionError),
    #[error("the connection to the host broke: {0}")]
    Io(#[source] io::Error),
    /// How a refusal of user and password shows: `ironrdp`'s server accepts
    /// the connection sequence first and then sends an error info PDU without
    /// the share headers that would make it readable.
    #[error("the host painted nothing, check user and password: {0}")]
    NothingPainted(#[source] Box<ClientError>),
    #[error("the host ended the session: {reason}")]
    EndedByHost { reason: String },
    #[error("no verified picture within {deadline_ms} ms: {seen}")]
    Deadline { deadline_ms: u64, seen: String },
}

/// Runs one session over `stream`: connects, watches until the picture is
/// verified, says goodbye.
///
/// # Errors
/// One per way in which the picture can fail to appear in time.
pub async fn watch<S>(stream: S, settings: &ClientSettings) -> Result<ClientReport, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Sync + Unpin,
{
    let mut seen = Seen::default();
    let deadline = Duration::from_millis(settings.deadline_ms);
    match tokio::time::timeout(deadline, session(stream, settings, &mut seen)).await {
        Ok(report) => report,
        Err(_) => {
            Err(ClientError::Deadline { deadline_ms: settings.deadline_ms, seen: seen.to_string() })
        }
    }
}

/// Writes a picture as PNG.
///
/// # Errors
/// When the file cannot be written or the image is not as large as it says.
pub fn write_png(path: &Path, image: &Image) -> io::Result<()> {
    let file = io::BufWriter::new(std::fs::File::create(path)?);
    let mut encoder = png::Encoder::new(file, image.width.into(), image.height.into());
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&image.rgba)?;
    Ok(writer.finish()?)
}

/// How far a session came; outlives it when the deadline cuts it off.
#[derive(Debug, Default)]
struct Seen {
    connected: bool,
    updates: u32,
    mismatch: Option<picture::Mismatch>,
    squares: Vec<(u16, u16)>,
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.connected {
            return f.write_str("RDP's connection sequence did not end");
        }
        write!(f, "{} updates, {} places of the square", self.updates, self.squares.len())?;
        match self.mismatch {
            Some(wrong) => write!(
                f,
                ", pixel {},{} is {:?} instead of {:?}",
                wrong.x, wrong.y, wrong.found, wrong.expected
            ),
            None => Ok(()),
        }
    }
}

type Framed<S> = MovableTokioFramed<TlsStream<S>>;

async fn session<S>(
    stream: S,
    settings: &ClientSettings,
    seen: &mut Seen,
) -> Result<ClientReport, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Sync + Unpin,
{
    let began = Instant::now();
    // The address goes into the Client Info PDU; this client has none.
    let no_address = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut connector = ClientConnector::new(connector_config(settings), no_address);
    let mut output = ironrdp::core::WriteBuf::new();

    let mut plain = MovableTokioFramed::new(stream);
    while !connector.should_perform_security_upgrade() {
        single_sequence_step(&mut plain, &mut connector, &mut output)
            .await
            .map_err(ClientError::Connect)?;
    }
    let tls = upgrade(plain.into_inner_no_leftover(), settings).await?;
    connector.mark_security_upgrade_as_done();
    let tls_after = began.elapsed();

    let mut framed = Framed::new(tls);
    let connected = loop {
        single_sequence_step(&mut framed, &mut connector, &mut output)
            .await
            .map_err(ClientError::Connect)?;
        if let ClientConnectorState::Connected { result } = connector.state {
            break result;
        }
    };
    seen.connected = true;
    let connected_after = began.elapsed();

    let size = connected.desktop_size;
    let mut image = DecodedImage::new(PixelFormat::RgbA32, size.width, size.height);
    let mut stage = active_stage(connected);
    let mut first_pixel_after = None;
    while !is_verified(&image, seen) {
        let painted = receive(&mut framed, &mut stage, &mut image, seen).await;
        let painted = painted.map_err(|error| match seen.updates {
            0 => ClientError::NothingPainted(Box::new(error)),
            _ => error,
        })?;
        if painted {
            first_pixel_after.get_or_insert_with(|| began.elapsed());
        }
    }
    let verified_after = began.elapsed();
    let verified =
        Image { width: image.width(), height: image.height(), rgba: image.data().to_vec() };
    let updates = seen.updates;
    say_goodbye(framed, stage, &mut image).await;

    Ok(ClientReport {
        image: verified,
        updates,
        pixels_verified: true,
        square_positions: seen.squares.len(),
        tls_after,
        connected_after,
        first_pixel_after: first_pixel_after.unwrap_or(verified_after),
        verified_after,
    })
}

/// TLS towards the one host that holds the pinned certificate's key.
async fn upgrade<S>(stream: S, settings: &ClientSettings) -> Result<TlsStream<S>, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut roots = RootCertStore::empty();
    roots
        .add(settings.host_certificate.clone())
        .map_err(|error| ClientError::Pin(error.to_string()))?;
    let config = TlsSettings::default()
        .client(roots)
        .map_err(|error| ClientError::Pin(error.to_string()))?;
    let name = ServerName::try_from(settings.host_name.clone())
        .map_err(|error| ClientError::Pin(error.to_string()))?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(ClientError::Tls)?;
    // A root could have signed another certificate; only itself will do.
    let (_, connection) = stream.get_ref();
    let shown = connection.peer_certificates().and_then(|chain| chain.first());
    if shown != Some(&settings.host_certificate) {
        return Err(ClientError::WrongCertificate);
    }
    Ok(stream)
}

/// Reads one PDU and answers it. True when it changed the picture.
async fn receive<S>(
    framed: &mut Framed<S>,
    stage: &mut ActiveStage,
    image: &mut DecodedImage,
    seen: &mut Seen,
) -> Result<bool, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let (action, pdu) = framed.read_pdu().await.map_err(ClientError::Io)?;
    let mut painted = false;
    for output in stage.process(image, action, &pdu).map_err(ClientError::Decode)? {
        match output {
            ActiveStageOutput::ResponseFrame(frame) if !frame.is_empty() => {
                framed.write_all(&frame).await.map_err(ClientError::Io)?;
            }
            ActiveStageOutput::GraphicsUpdate(_) => {
                painted = true;
                seen.updates = seen.updates.saturating_add(1);
            }
            ActiveStageOutput::Terminate(reason) => {
                return Err(ClientError::EndedByHost { reason: reason.to_string() });
            }
            ActiveStageOutput::DeactivateAll => {
                return Err(ClientError::EndedByHost {
                    reason: "it changed the size of the desktop".to_owned(),
                });
            }
            _ => {}
        }
    }
    Ok(painted)
}

fn is_verified(image: &DecodedImage, seen: &mut Seen) -> bool {
    let (rgba, width) = (image.data(), image.width());
    if seen.squares.len() < SQUARE_POSITIONS_MIN
        && let Some(place) = picture::find_square(rgba, width, 0, COLOUR_TOLERANCE)
        && !seen.squares.contains(&place)
    {
        seen.squares.push(place);
    }
    // The costly comparison comes last and is made on the image that counts.
    if seen.squares.len() < SQUARE_POSITIONS_MIN {
        return false;
    }
    seen.mismatch = picture::first_mismatch_in_bars(rgba, width, COLOUR_TOLERANCE);
    seen.mismatch.is_none()
}

/// Asks the host to end the session and reads until it did. The result is in
/// hand, so that a host that just hangs up is as good as a polite one.
async fn say_goodbye<S>(mut framed: Framed<S>, mut stage: ActiveStage, image: &mut DecodedImage)
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let goodbye = async {
        let Ok(outputs) = stage.graceful_shutdown() else { return };
        for output in outputs {
            if let ActiveStageOutput::ResponseFrame(frame) = output
                && framed.write_all(&frame).await.is_err()
            {
                return;
            }
        }
        while receive(&mut framed, &mut stage, image, &mut Seen::default()).await.is_ok() {}
        let (tls, _) = framed.get_inner_mut();
        let _already_closed = tls.shutdown().await;
    };
    let within = Duration::from_millis(GOODBYE_TIMEOUT_MS);
    if tokio::time::timeout(within, goodbye).await.is_err() {
        tracing::debug!(step = 12, "The host did not end the session when asked");
    }
}

fn active_stage(connected: connector::ConnectionResult) -> ActiveStage {
    ActiveStageBuilder {
        static_channels: connected.static_channels,
        user_channel_id: connected.user_channel_id,
        io_channel_id: connected.io_channel_id,
        message_channel_id: connected.message_channel_id,
        share_id: connected.share_id,
        compression_type: connected.compression_type,
        enable_server_pointer: connected.enable_server_pointer,
        pointer_software_rendering: connected.pointer_software_rendering,
    }
    .build()
}

fn connector_config(settings: &ClientSettings) -> connector::Config {
    connector::Config {
        credentials: connector::Credentials::UsernamePassword {
            username: settings.user.clone(),
            password: settings.password.to_string(),
        },
        domain: None,
        enable_tls: true,
        enable_credssp: false,
        desktop_size: connector::DesktopSize { width: picture::WIDTH, height: picture::HEIGHT },
        desktop_scale_factor: 0,
        bitmap: client_codecs_capabilities(&[]).ok().map(|codecs| connector::BitmapConfig {
            lossy_compression: false,
            color_depth: 32,
            codecs,
        }),
        client_name: "ringway-demo".to_owned(),
        client_build: 0,
        client_dir: String::new(),
        platform: MajorPlatformType::UNIX,
        keyboard_type: KeyboardType::IbmEnhanced,
        keyboard_subtype: 0,
        keyboard_layout: 0,
        keyboard_functional_keys_count: 12,
        ime_file_name: String::new(),
        dig_product_id: String::new(),
        alternate_shell: String::new(),
        work_dir: String::new(),
        hardware_id: None,
        request_data: None,
        autologon: true,
        enable_audio_playback: false,
        performance_flags: PerformanceFlags::default(),
        license_cache: None,
        timezone_info: TimezoneInfo::default(),
        compression_type: None,
        enable_server_pointer: false,
        pointer_software_rendering: false,
        multitransport_flags: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::rdp_host::{DemoHost, HOST_NAME};

    fn settings(host: &DemoHost, password: &str) -> ClientSettings {
        ClientSettings {
            user: "demo".into(),
            password: Zeroizing::new(password.into()),
            host_certificate: host.certificate_der().clone(),
            host_name: HOST_NAME.into(),
            deadline_ms: 60_000,
        }
    }

    #[tokio::test]
    async fn sees_every_pixel_and_the_square_move() {
        let host = DemoHost::start("demo", "secret").unwrap();
        let report = watch(host.connect().unwrap(), &settings(&host, "secret")).await.unwrap();
        assert!(report.pixels_verified);
        assert!(report.square_positions >= SQUARE_POSITIONS_MIN);
        assert_eq!((report.image.width, report.image.height), (picture::WIDTH, picture::HEIGHT));
        let mismatch = picture::first_mismatch_in_bars(&report.image.rgba, report.image.width, 0);
        assert_eq!(mismatch, None);
        assert!(report.tls_after <= report.connected_after);
        assert!(report.connected_after <= report.first_pixel_after);
        assert!(report.first_pixel_after <= report.verified_after);
        host.shutdown().await;
    }

    #[tokio::test]
    async fn many_sessions_at_once_have_a_picture_each() {
        let host = DemoHost::start("demo", "secret").unwrap();
        let settings = Arc::new(settings(&host, "secret"));
        let mut sessions = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (stream, settings) = (host.connect().unwrap(), Arc::clone(&settings));
            sessions.spawn(async move { watch(stream, &settings).await });
        }
        while let Some(report) = sessions.join_next().await {
            assert!(report.unwrap().unwrap().pixels_verified);
        }
        host.shutdown().await;
    }

    #[tokio::test]
    async fn a_wrong_password_shows_nothing() {
        let host = DemoHost::start("demo", "secret").unwrap();
        let guess = watch(host.connect().unwrap(), &settings(&host, "guess")).await;
        assert!(matches!(guess, Err(ClientError::NothingPainted(_))), "{guess:?}");
        let stranger = ClientSettings { user: "other".into(), ..settings(&host, "secret") };
        let stranger = watch(host.connect().unwrap(), &stranger).await;
        assert!(matches!(stranger, Err(ClientError::NothingPainted(_))), "{stranger:?}");
        // Not because nobody gets in.
        assert!(watch(host.connect().unwrap(), &settings(&host, "secret")).await.is_ok());
        host.shutdown().await;
    }

    #[tokio::test]
    async fn another_host_s_certificate_is_refused() {
        let host = DemoHost::start("demo", "secret").unwrap();
        let other = DemoHost::start("demo", "secret").unwrap();
        let refused = watch(other.connect().unwrap(), &settings(&host, "secret")).await;
        assert!(matches!(refused, Err(ClientError::Tls(_))), "{refused:?}");
    }

    #[tokio::test]
    async fn a_silent_host_is_given_up_at_the_deadline() {
        let host = DemoHost::start("demo", "secret").unwrap();
        let (near, _far) = tokio::io::duplex(1024);
        let settings = ClientSettings { deadline_ms: 50, ..settings(&host, "secret") };
        let late = watch(near, &settings).await;
        assert!(matches!(late, Err(ClientError::Deadline { deadline_ms: 50, .. })), "{late:?}");
    }

    #[tokio::test]
    async fn a_stopped_host_ends_the_session_and_takes_no_other() {
        let host = DemoHost::start("demo", "secret").unwrap();
        let settings = ClientSettings { user: "demo".into(), ..settings(&host, "secret") };
        let (stream, waiting) = (host.connect().unwrap(), host.connect().unwrap());
        assert!(watch(stream, &settings).await.unwrap().pixels_verified);
        host.shutdown().await;
        let ended = watch(waiting, &settings).await.unwrap_err();
        assert!(matches!(ended, ClientError::Connect(_) | ClientError::Io(_)), "{ended:?}");
    }

    #[test]
    fn the_png_has_the_pixels() {
        let image = Image { width: 2, height: 1, rgba: vec![1, 2, 3, 255, 4, 5, 6, 255] };
        let path = std::env::temp_dir().join(format!("ringway-{}.png", std::process::id()));
        write_png(&path, &image).unwrap();
        let file = io::BufReader::new(std::fs::File::open(&path).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(pixels, image.rgba);
    }
}
