//! The half of a client that it hears on, seen from the half that it speaks on.
//! Each is a connection of its own, perhaps at another lobby thread.

use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use tokio::sync::{mpsc, oneshot};

use super::header_or_parameter;
use crate::core::codes::{Code, Refusal};
use crate::core::pairing::PairingTable;
use crate::gateway::lobby::connection::Connection;
use crate::gateway::relay::Leg;
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
    /// SHA-256 of the `Authorization` header, present or not.
    authorization: [u8; SHA256_OUTPUT_LEN],
}

impl ChannelKey {
    /// # Errors
    /// [`Code::RequestMalformed`] without an id.
    pub(super) fn of(connection: &Connection, head: &RequestHead) -> Result<Self, Code> {
        let id = header_or_parameter(head, "rdg-connection-id", "ConId");
        let id = id.filter(|id| (1..=CONNECTION_ID_LEN_MAX).contains(&id.expose().len()));
        let authorization = head.header("authorization").unwrap_or_default();
        let hash = digest(&SHA256, authorization.as_bytes());
        Ok(Self {
            connection_id: id.ok_or(Code::RequestMalformed)?.expose().to_ascii_lowercase(),
            address: connection.peer.ip().to_canonical(),
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
