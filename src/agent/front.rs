//! The first PDU of a client, on its way to the host's RDP server (step 12).
//!
//! Routing tokens are for what stands between client and server: stripped. A
//! client of Azure Virtual Desktop asks for a logon by token (RDSAAD) and
//! nothing else at first; RDP servers that do not know it end the connection
//! over that, so it is told here what to come back with. What is not RDP, or
//! where the server speaks first, passes untouched.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout, timeout_at};

use crate::wire::x224::{
    ConnectionConfirm, ConnectionRequest, FailureCode, Protocols, REQUEST_BYTES_MAX,
};

/// A client that was declined leaves by itself; this is for one that does not.
const LEAVING: Duration = Duration::from_secs(5);

/// What becomes of logons by token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rdsaad {
    /// The RDP server takes them.
    Pass,
    /// A client that offers nothing else is told this.
    Decline(FailureCode),
}

/// What to do with what a client has sent so far.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The PDU is not whole.
    More,
    /// Give the server these bytes, then everything that follows.
    Replay(Vec<u8>),
    /// Give the client these bytes: it comes back.
    Decline(Vec<u8>),
}

fn judge(received: &[u8], rdsaad: Rdsaad) -> Verdict {
    let (request, len) = match ConnectionRequest::parse(received) {
        Ok(Some(parsed)) => parsed,
        Ok(None) => return Verdict::More,
        Err(_) => return Verdict::Replay(received.to_vec()),
    };
    let offered = request.negotiation.map(|asked| asked.protocols).unwrap_or_default();
    let passed = match rdsaad {
        Rdsaad::Pass => offered,
        Rdsaad::Decline(refusal) if offered == Protocols::RDSAAD => {
            return Verdict::Decline(ConnectionConfirm::Refused(refusal).to_bytes());
        }
        Rdsaad::Decline(_) => offered.without(Protocols::RDSAAD),
    };
    if request.routing_token.is_none() && passed == offered {
        return Verdict::Replay(received.to_vec());
    }
    let mut replay = request.offering(passed).for_server();
    replay.extend_from_slice(received.get(len..).unwrap_or_default());
    Verdict::Replay(replay)
}

/// What became of a session's beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// The first bytes are where they belong; the rest can flow.
    Yes { bytes_up: u64, bytes_down: u64 },
    /// The client was sent away, to come back with another offer.
    Declined,
}

/// Carries the first PDU from `leg` to `target`. Gives up waiting for it, and
/// lets both go on as they are, after `first_pdu_timeout`.
///
/// # Errors
/// When either stream fails meanwhile.
pub(super) async fn begin<L, T>(
    leg: &mut L,
    target: &mut T,
    rdsaad: Rdsaad,
    first_pdu_timeout: Duration,
) -> std::io::Result<Begun>
where
    L: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let deadline = Instant::now() + first_pdu_timeout;
    let mut received = Vec::with_capacity(REQUEST_BYTES_MAX);
    let mut spoken = vec![0; REQUEST_BYTES_MAX];
    let mut bytes_down = 0;
    let replay = loop {
        match judge(&received, rdsaad) {
            Verdict::More => {}
            Verdict::Replay(replay) => break replay,
            Verdict::Decline(answer) => {
                send_away(leg, &answer).await?;
                return Ok(Begun::Declined);
            }
        }
        let either = async {
            tokio::select! {
                read = leg.read_buf(&mut received) => read.map(Heard::Client),
                read = target.read(&mut spoken) => read.map(Heard::Server),
            }
        };
        match timeout_at(deadline, either).await {
            Ok(Ok(Heard::Client(1..))) => {}
            Ok(Ok(Heard::Server(len))) => {
                leg.write_all(spoken.get(..len).unwrap_or_default()).await?;
                leg.flush().await?;
                bytes_down = len as u64;
                break received;
            }
            // The end of the stream is the other's to find out.
            Ok(Ok(Heard::Client(0))) | Err(_) => break received,
            Ok(Err(error)) => return Err(error),
        }
    };
    target.write_all(&replay).await?;
    target.flush().await?;
    Ok(Begun::Yes { bytes_up: replay.len() as u64, bytes_down })
}

enum Heard {
    Client(usize),
    Server(usize),
}

async fn send_away(
    leg: &mut (impl AsyncRead + AsyncWrite + Unpin),
    answer: &[u8],
) -> std::io::Result<()> {
    leg.write_all(answer).await?;
    leg.flush().await?;
    let left = async {
        let mut scrap = [0; 1_024];
        while matches!(leg.read(&mut scrap).await, Ok(1..)) {}
    };
    let _in_time = timeout(LEAVING, left).await;
    leg.shutdown().await
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    const WAIT: Duration = Duration::from_secs(20);
    const SSL: Rdsaad = Rdsaad::Decline(FailureCode::SSL_REQUIRED);
    const HYBRID: Rdsaad = Rdsaad::Decline(FailureCode::HYBRID_REQUIRED);

    /// As FreeRDP makes it: token or cookie, then the negotiation.
    fn request(line: &[u8], protocols: u8) -> Vec<u8> {
        let len = 11 + line.len() + 8;
        let mut pdu = vec![3, 0, 0, u8::try_from(len).unwrap()];
        pdu.extend([u8::try_from(len - 5).unwrap(), 0xe0, 0, 0, 0, 0, 0]);
        pdu.extend(line);
        pdu.extend([1, 0, 8, 0, protocols, 0, 0, 0]);
        pdu
    }

    fn replayed(verdict: Verdict) -> Vec<u8> {
        let Verdict::Replay(bytes) = verdict else { panic!("{verdict:?}") };
        bytes
    }

    #[test]
    fn a_routing_token_is_stripped_and_what_follows_is_kept() {
        let mut sent = request(b"mth://localhost/office/desktop\r\n", 3);
        sent.extend(b"more");
        let mut wanted = request(b"", 3);
        wanted.extend(b"more");
        assert_eq!(replayed(judge(&sent, SSL)), wanted);
        let plain = request(b"Cookie: mstshash=ann\r\n", 3);
        assert_eq!(replayed(judge(&plain, SSL)), plain);
    }

    #[test]
    fn rdsaad_alone_is_declined_and_among_others_masked_away() {
        let declined = judge(&request(b"", 0x10), SSL);
        // PROTOCOLS.md 1.7 (a).
        let answer = [3, 0, 0, 0x13, 0x0e, 0xd0, 0, 0, 0x12, 0x34, 0, 3, 0, 8, 0, 1, 0, 0, 0];
        assert_eq!(declined, Verdict::Decline(answer.to_vec()));
        let among = judge(&request(b"", 0x13), SSL);
        assert_eq!(replayed(among), request(b"", 3));
    }

    #[test]
    fn rdsaad_passes_to_a_server_that_takes_it_without_the_routing_token() {
        for protocols in [0x10, 0x13] {
            let sent = request(b"mth://localhost/office/desktop\r\n", protocols);
            assert_eq!(replayed(judge(&sent, Rdsaad::Pass)), request(b"", protocols));
            let plain = request(b"Cookie: mstshash=ann\r\n", protocols);
            assert_eq!(replayed(judge(&plain, Rdsaad::Pass)), plain);
        }
    }

    #[tokio::test]
    async fn a_request_arrives_whole_wherever_it_was_cut() {
        let sent = request(b"mth://x/y\r\n", 3);
        for cut in 1..sent.len() {
            let (mut client, mut leg) = duplex(4_096);
            let (mut target, mut server) = duplex(4_096);
            client.write_all(&sent[..cut]).await.unwrap();
            let later = sent[cut..].to_vec();
            let rest = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                client.write_all(&later).await.unwrap();
                client
            });
            let begun = begin(&mut leg, &mut target, SSL, WAIT).await;
            let bytes_up = request(b"", 3).len() as u64;
            assert_eq!(begun.unwrap(), Begun::Yes { bytes_up, bytes_down: 0 });
            let mut got = vec![0; request(b"", 3).len()];
            server.read_exact(&mut got).await.unwrap();
            assert_eq!(got, request(b"", 3));
            drop(rest.await.unwrap());
        }
    }

    #[tokio::test]
    async fn who_is_declined_gets_the_answer_and_the_server_nothing() {
        let (mut client, mut leg) = duplex(4_096);
        let (mut target, mut server) = duplex(4_096);
        client.write_all(&request(b"", 0x10)).await.unwrap();
        let leaving = tokio::spawn(async move {
            let mut answer = [0; 19];
            client.read_exact(&mut answer).await.unwrap();
            answer
        });
        let begun = begin(&mut leg, &mut target, HYBRID, WAIT).await;
        assert_eq!(begun.unwrap(), Begun::Declined);
        assert_eq!(leaving.await.unwrap()[15], 5);
        drop(target);
        assert_eq!(server.read(&mut [0; 9]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_not_rdp_passes_and_so_does_a_server_that_speaks_first() {
        let (mut client, mut leg) = duplex(4_096);
        let (mut target, mut server) = duplex(4_096);
        client.write_all(b"SSH-2.0\r\n").await.unwrap();
        begin(&mut leg, &mut target, SSL, WAIT).await.unwrap();
        let mut got = [0; 9];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"SSH-2.0\r\n");

        server.write_all(b"hello").await.unwrap();
        begin(&mut leg, &mut target, SSL, WAIT).await.unwrap();
        let mut got = [0; 5];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
        // Nobody speaks: it goes on after the deadline.
        let short = Duration::from_millis(5);
        begin(&mut leg, &mut target, SSL, short).await.unwrap();
    }
}
