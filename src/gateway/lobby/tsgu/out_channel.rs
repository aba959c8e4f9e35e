//! The half of a client that it hears on, seen from the half that it speaks on.
//! Each is a connection of its own, perhaps at another lobby thread.

use std::net::IpAddr;
use std::sync::Mutex;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use tokio::sync::{mpsc, oneshot};

use super::header_or_parameter;
use crate::core::codes::{Code, Refusal};
use crate::core::pairing::{NoWait, PairingTable};
use crate::core::secret::Secret;
use crate::gateway::relay::Leg;
use crate::gateway::shared::lock;
use crate::wire::http_head::RequestHead;

/// OUT channels that wait for their IN channels.
pub type OutChannels = PairingTable<ChannelKey, OutChannel>;

/// A GUID in braces is shorter.
const CONNECTION_ID_LEN_MAX: usize = 64;
/// The IN channel waits for each packet to be taken before it has another.
const SAYINGS_MAX: usize = 4;

/// What makes two connections the halves of one client. The id alone is not
/// enough: the client chooses it, so anybody may have the same.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ChannelKey {
    connection_id: String,
    address: IpAddr,
    /// SHA-256 of the `Authorization` header or of the query parameter in its
    /// place, present or not.
    authorization: [u8; SHA256_OUTPUT_LEN],
}

impl ChannelKey {
    /// # Errors
    /// [`Code::RequestMalformed`] without an id.
    pub(super) fn of(address: IpAddr, head: &RequestHead) -> Result<Self, Code> {
        let id = header_or_parameter(head, "rdg-connection-id", "ConId");
        let id = id.filter(|id| (1..=CONNECTION_ID_LEN_MAX).contains(&id.expose().len()));
        let authorization = header_or_parameter(head, "authorization", "ClmTk");
        let hash = digest(&SHA256, authorization.as_ref().map_or("", Secret::expose).as_bytes());
        Ok(Self {
            connection_id: id.ok_or(Code::RequestMalformed)?.expose().to_ascii_lowercase(),
            address: address.to_canonical(),
            authorization: hash.as_ref().try_into().map_err(|_| Code::Internal)?,
        })
    }
}

impl std::fmt::Debug for ChannelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChannelKey").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What the OUT channel's task is told.
#[derive(Debug)]
pub(super) enum Saying {
    /// Its IN channel is here.
    Attached,
    Packet(Vec<u8>),
    /// The last, if it is one. Then the connection closes.
    Last {
        packet: Vec<u8>,
        refusal: Refusal,
    },
    /// The last before the relay has the connection.
    Open {
        packet: Vec<u8>,
        answer: oneshot::Sender<Result<Leg, Refusal>>,
    },
}

/// How the IN channel reaches it.
#[derive(Debug)]
pub struct OutChannel(mpsc::Sender<Saying>);

/// It is not there any more.
#[derive(Debug)]
pub(super) struct OutGone;

impl OutChannel {
    pub(super) fn new() -> (Self, mpsc::Receiver<Saying>) {
        let (say, said) = mpsc::channel(SAYINGS_MAX);
        (Self(say), said)
    }

    pub(super) async fn attach(&self) -> Result<(), OutGone> {
        self.say(Saying::Attached).await
    }

    pub(super) async fn send(&self, packet: Vec<u8>) -> Result<(), OutGone> {
        self.say(Saying::Packet(packet)).await
    }

    pub(super) async fn refuse(&self, packet: Vec<u8>, refusal: Refusal) {
        // One that is gone needs no farewell.
        let _ = self.say(Saying::Last { packet, refusal }).await;
    }

    /// Sends the packet that opens the channel and takes the leg.
    pub(super) async fn open(&self, packet: Vec<u8>) -> Result<Result<Leg, Refusal>, OutGone> {
        let (answer, answered) = oneshot::channel();
        self.say(Saying::Open { packet, answer }).await?;
        answered.await.map_err(|_| OutGone)
    }

    /// Resolves when its connection has ended.
    pub(super) async fn left(&self) {
        self.0.closed().await;
    }

    /// Every saying is heard or its hearer is gone: writing has a deadline.
    async fn say(&self, saying: Saying) -> Result<(), OutGone> {
        self.0.send(saying).await.map_err(|_| OutGone)
    }
}

/// An OUT channel among those that wait, until it is dropped. An IN channel may
/// have taken it before, and then another may wait with the same key.
pub(super) struct Wait<'a> {
    channels: &'a Mutex<OutChannels>,
    key: ChannelKey,
    /// Does not keep it open.
    own: mpsc::WeakSender<Saying>,
}

impl<'a> Wait<'a> {
    /// # Errors
    /// [`NoWait`].
    pub(super) fn begin(
        channels: &'a Mutex<OutChannels>,
        key: ChannelKey,
        address: IpAddr,
        out: OutChannel,
    ) -> Result<Self, NoWait> {
        let own = out.0.downgrade();
        lock(channels).wait(key.clone(), address, out)?;
        Ok(Self { channels, key, own })
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        // All its senders are gone: it does not wait.
        let Some(own) = self.own.upgrade() else { return };
        lock(self.channels).take_if(&self.key, |waiting| waiting.0.same_channel(&own));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::pairing::PairingLimits;
    use crate::wire::http_head::HeadStatus;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn key(target: &str, headers: &str) -> ChannelKey {
        let text =
            format!("RDG_OUT_DATA {target} HTTP/1.1\r\nRDG-Connection-Id: {{1}}\r\n{headers}\r\n");
        let Ok(HeadStatus::Complete(head)) = RequestHead::parse(text.as_bytes(), 1_000) else {
            panic!("{text}");
        };
        ChannelKey::of(HERE, &head).unwrap()
    }

    #[test]
    fn a_wait_that_ends_late_leaves_the_next_with_its_key_alone() {
        let limits = PairingLimits { waiting_max: 9, waiting_per_address_max: 9 };
        let channels = Mutex::new(OutChannels::new(limits));
        let key = key("/", "");
        let (first, _first_said) = OutChannel::new();
        let wait = Wait::begin(&channels, key.clone(), HERE, first).unwrap();
        let _taken_by_its_in_channel = lock(&channels).take(&key).unwrap();
        let (second, _second_said) = OutChannel::new();
        let next = Wait::begin(&channels, key.clone(), HERE, second).unwrap();
        drop(wait);
        assert_eq!(lock(&channels).len(), 1);
        drop(next);
        assert!(lock(&channels).is_empty());
    }

    #[test]
    fn a_key_holds_the_token_wherever_the_request_has_it() {
        let none = key("/", "");
        let (one, other) = (key("/?ClmTk=Bearer%20a", ""), key("/?ClmTk=Bearer%20b", ""));
        assert!(none != one && one != other);
        assert_eq!(one, key("/", "Authorization: Bearer a\r\n"));
    }
}
