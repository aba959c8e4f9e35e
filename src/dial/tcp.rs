//! TCP to every address of a name, one after the other, under one deadline.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{DialErrorKind, Phase};

/// More addresses of one name than this are not tried.
const ADDRESSES_MAX: usize = 16;

/// A silent peer is asked after this long …
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// … then this often …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// … and given up after this many questions without an answer.
const KEEPALIVE_PROBES: u32 = 3;
/// Bytes that nobody acknowledges for this long end the connection; the kernel
/// alone would keep at it for about a quarter of an hour. It also ends a
/// connection whose peer lives and reads nothing (its window stays shut), so it
/// is far longer than any pause of a reader that means to go on.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(300);

/// Connects. An address that does not answer leaves its successors their
/// share of the time that is left.
///
/// # Errors
/// `Resolve`, `Connect` (of the last address tried) or `Deadline`.
pub async fn connect(host: &str, port: u16, within: Duration) -> Result<TcpStream, DialErrorKind> {
    let deadline = Instant::now() + within;
    let after_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    let addresses: Vec<_> = match timeout_at(deadline, lookup_host((host, port))).await {
        Ok(Ok(addresses)) => addresses.take(ADDRESSES_MAX).collect(),
        Ok(Err(error)) => return Err(DialErrorKind::Resolve { error }),
        Err(_elapsed) => return Err(DialErrorKind::Deadline { phase: Phase::Resolve, after_ms }),
    };

    let mut failure = DialErrorKind::Resolve { error: io::Error::other("no address") };
    let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    for address in addresses {
        let share = deadline.saturating_duration_since(Instant::now()) / left.max(1);
        left = left.saturating_sub(1);
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                tune(&stream).map_err(|error| DialErrorKind::Connect { error })?;
                return Ok(stream);
            }
            Ok(Err(error)) => failure = DialErrorKind::Connect { error },
            Err(_elapsed) => failure = DialErrorKind::Deadline { phase: Phase::Connect, after_ms },
        }
    }
    Err(failure)
}

/// What every socket of ours is set to: small writes leave at once, and a peer
/// that vanished is noticed. What a listener is set to, the connections that it
/// accepts are set to as well (Linux).
///
/// # Errors
/// When the kernel refuses an option.
pub fn tune(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn connects_to_whichever_address_of_the_name_answers() {
        // "localhost" is ::1 and 127.0.0.1 on most machines; only one listens.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = connect("localhost", port, Duration::from_secs(5)).await.unwrap();
        assert!(stream.nodelay().unwrap());
        assert!(SockRef::from(&stream).keepalive().unwrap());
    }

    #[tokio::test]
    async fn says_when_nobody_listens_and_when_the_name_is_unknown() {
        // Bound but not listening: nobody else can get the port meanwhile.
        let deaf = tokio::net::TcpSocket::new_v4().unwrap();
        deaf.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = deaf.local_addr().unwrap().port();
        let refused = connect("127.0.0.1", port, Duration::from_secs(5)).await.unwrap_err();
        assert!(matches!(refused, DialErrorKind::Connect { .. }), "{refused:?}");
        let unknown = connect("no-such-host.invalid", 1, Duration::from_secs(5)).await.unwrap_err();
        assert!(
            matches!(
                unknown,
                DialErrorKind::Resolve { .. }
                    | DialErrorKind::Deadline { phase: Phase::Resolve, .. }
            ),
            "{unknown:?}"
        );
    }
}
