//! The admin socket of a role: a Unix socket that only the role's user may
//! open; one line of JSON asks, one answers (see [`crate::wire::admin`]).

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::wire::admin::AdminResponse;

/// Operators at once.
const CONNECTIONS_MAX: usize = 32;
const NURSERY_SOCKET: &str = "s";
const REQUEST_BYTES_MAX: u64 = 64 * 1024;
/// One request and its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens the socket. One that an earlier run left behind is replaced; one on
/// which somebody answers is not.
///
/// # Errors
/// When the socket cannot be made, or another process uses it.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process answers on this socket; stop it or set admin_socket",
        ));
    }
    // The state directory is closed to others already; this is for sockets
    // elsewhere. Nobody reaches the socket before its mode is right, because it
    // is made in a directory that only we may enter. Its name is short: a
    // socket's path has 107 bytes.
    let nursery = path.with_file_name(format!(".{}", std::process::id()));
    // Of an earlier run that was cut off here.
    let _ = std::fs::remove_file(nursery.join(NURSERY_SOCKET));
    let _ = std::fs::remove_dir(&nursery);
    std::fs::DirBuilder::new().mode(0o700).create(&nursery)?;
    let made = bind_in(&nursery, path);
    let _ = std::fs::remove_file(nursery.join(NURSERY_SOCKET));
    let removed = std::fs::remove_dir(&nursery);
    made.and_then(|listener| removed.map(|()| listener))
}

fn bind_in(nursery: &Path, path: &Path) -> io::Result<UnixListener> {
    let newborn = nursery.join(NURSERY_SOCKET);
    let listener = UnixListener::bind(&newborn)?;
    std::fs::set_permissions(&newborn, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&newborn, path)?;
    Ok(listener)
}

/// Answers until it is aborted. `answer` decides; everything else is here.
pub async fn serve<Request, F, Answer>(listener: UnixListener, answer: F)
where
    Request: DeserializeOwned + Send + 'static,
    F: Fn(Request) -> Answer + Clone + Send + 'static,
    Answer: Future<Output = AdminResponse> + Send,
{
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = answer.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    match timeout(PATIENCE, converse(stream, answer)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::debug!(%error, "An admin connection failed"),
                        Err(_elapsed) => tracing::debug!("An admin connection took too long"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "Cannot accept an admin connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse<Request, F, Answer>(stream: UnixStream, answer: F) -> io::Result<()>
where
    Request: DeserializeOwned,
    F: Fn(Request) -> Answer,
    Answer: Future<Output = AdminResponse>,
{
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(REQUEST_BYTES_MAX)).read_line(&mut line).await?;
    let response = match serde_json::from_str(&line) {
        Ok(request) => answer(request).await,
        Err(error) => AdminResponse::Invalid { problem: error.to_string() },
    };
    let mut text = zeroize::Zeroizing::new(serde_json::to_string(&response)?);
    text.push('\n');
    writer.write_all(text.as_bytes()).await?;
    writer.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_ours_alone_and_replaces_only_what_is_dead() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("admin.sock");
        let first = bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let second = bind(&path).unwrap();
        let left: Vec<_> = std::fs::read_dir(temporary.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        let (accepted, connected) = tokio::join!(second.accept(), UnixStream::connect(&path));
        assert!(accepted.is_ok() && connected.is_ok());
    }
}
