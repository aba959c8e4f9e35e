//! The admin socket of a role: a Unix socket on which one line of JSON asks,
//! one answers (see [`crate::wire::admin`]).
//!
//! The kernel says which account is at the other end (`SO_PEERCRED`, unix(7)).
//! Root and the role's own account may ask; others only if the configuration
//! names them. Where it names none, the socket's mode keeps others out as well.

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

use crate::config::admin::Peers;
use crate::core::codes::{Code, Refusal};
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
pub fn bind(path: &Path, peers: &Peers) -> io::Result<UnixListener> {
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
    // Others may knock where some of them may come in.
    let mode = if peers.is_empty() { 0o600 } else { 0o666 };
    let made = bind_in(&nursery, path, mode);
    let _ = std::fs::remove_file(nursery.join(NURSERY_SOCKET));
    let removed = std::fs::remove_dir(&nursery);
    made.and_then(|listener| removed.map(|()| listener))
}

fn bind_in(nursery: &Path, path: &Path, mode: u32) -> io::Result<UnixListener> {
    let newborn = nursery.join(NURSERY_SOCKET);
    let listener = UnixListener::bind(&newborn)?;
    std::fs::set_permissions(&newborn, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&newborn, path)?;
    Ok(listener)
}

/// Answers until it is aborted. `answer` is given the account that asks, and
/// decides; everything else is here.
pub async fn serve<Request, F, Answer>(listener: UnixListener, peers: Peers, answer: F)
where
    Request: DeserializeOwned + Send + 'static,
    F: Fn(u32, Request) -> Answer + Clone + Send + 'static,
    Answer: Future<Output = AdminResponse> + Send,
{
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let own_uid = rustix::process::geteuid().as_raw();
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = answer.clone();
                let peer = admitted(&stream, own_uid, &peers);
                tokio::spawn(async move {
                    let _permit = permit;
                    match timeout(PATIENCE, converse(stream, peer, answer)).await {
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

/// The account at the other end, if it may ask.
fn admitted(stream: &UnixStream, own_uid: u32, peers: &Peers) -> Result<u32, Refusal> {
    let peer = stream.peer_cred().map_err(|error| {
        tracing::warn!(%error, "The kernel does not say who is at the admin socket");
        Refusal::new(Code::AdminNotAllowed)
    })?;
    let (uid, gid) = (peer.uid(), peer.gid());
    if uid == 0 || uid == own_uid || peers.uids.contains(&uid) || peers.gids.contains(&gid) {
        return Ok(uid);
    }
    tracing::warn!(uid, gid, pid = peer.pid(), "Refused an account at the admin socket");
    Err(Refusal::with_detail(Code::AdminNotAllowed, format!("uid {uid}, gid {gid}")))
}

async fn converse<Request, F, Answer>(
    stream: UnixStream,
    peer: Result<u32, Refusal>,
    answer: F,
) -> io::Result<()>
where
    Request: DeserializeOwned,
    F: Fn(u32, Request) -> Answer,
    Answer: Future<Output = AdminResponse>,
{
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(REQUEST_BYTES_MAX)).read_line(&mut line).await?;
    let response = match (peer, serde_json::from_str(&line)) {
        (Err(refusal), _) => AdminResponse::Refused { refusal },
        (Ok(uid), Ok(request)) => answer(uid, request).await,
        (Ok(_), Err(error)) => AdminResponse::Invalid { problem: error.to_string() },
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
        let first = bind(&path, &Peers::default()).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(bind(&path, &Peers::default()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let second = bind(&path, &Peers::default()).unwrap();
        let left: Vec<_> = std::fs::read_dir(temporary.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        let (accepted, connected) = tokio::join!(second.accept(), UnixStream::connect(&path));
        assert!(accepted.is_ok() && connected.is_ok());
    }

    #[tokio::test]
    async fn only_accounts_that_may_are_answered() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let me = ours.peer_cred().unwrap();
        let (uid, gid) = (me.uid(), me.gid());
        // As if the role ran under another account than whoever runs this test.
        let elsewhere = uid + 1;
        let admits = |own_uid, peers: &Peers| admitted(&ours, own_uid, peers).map_err(|r| r.code);
        assert_eq!(admits(uid, &Peers::default()), Ok(uid));
        let stranger = if uid == 0 { Ok(0) } else { Err(Code::AdminNotAllowed) };
        assert_eq!(admits(elsewhere, &Peers::default()), stranger, "root may, always");
        let named = Peers { uids: vec![uid], gids: vec![] };
        assert_eq!(admits(elsewhere, &named), Ok(uid));
        let of_a_group = Peers { uids: vec![], gids: vec![gid] };
        assert_eq!(admits(elsewhere, &of_a_group), Ok(uid));
    }

    #[tokio::test]
    async fn others_may_knock_only_where_some_may_come_in() {
        let temporary = tempfile::tempdir().unwrap();
        for (peers, mode) in [
            (Peers::default(), 0o600),
            (Peers { uids: vec![1000], gids: vec![] }, 0o666),
            (Peers { uids: vec![], gids: vec![1000] }, 0o666),
        ] {
            let path = temporary.path().join("admin.sock");
            drop(bind(&path, &peers).unwrap());
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode);
        }
    }
}
