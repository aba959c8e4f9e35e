//! A session as the bench plays it: both of its ends.

use std::net::SocketAddr;
use std::time::Instant;

use rustls::pki_types::ServerName;
use tokio::sync::OwnedSemaphorePermit;

use super::flow::Flow;
use super::greeting::Greeting;
use super::leg::Leg;
use super::profile::{Profile, Source};
use crate::core::tickets::Role;

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not all legs are there.
    Opening,
    Live,
    /// No new messages; what is under way still arrives.
    Settling,
    /// The client has said goodbye.
    Closing,
    /// Over, and all was well.
    Closed,
    /// Over, and all was not.
    Failed,
}

/// One connection of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Client,
    /// What a client with two connections speaks on; on the other it hears.
    ClientIn,
    Host,
}

impl Wire {
    #[must_use]
    pub const fn role(self) -> Role {
        match self {
            Self::Client | Self::ClientIn => Role::Client,
            Self::Host => Role::Host,
        }
    }
}

/// A connection that is not dialled yet.
#[derive(Debug)]
pub struct Later {
    pub address: SocketAddr,
    pub name: ServerName<'static>,
    pub greeting: Greeting,
}

/// Both ends of one session.
#[derive(Debug)]
pub struct Session {
    pub profile: Profile,
    pub sources: Vec<Source>,
    pub state: State,
    /// Of the messages that are planned; those of an earlier plan are void.
    pub plan: u32,
    pub client: Option<Leg>,
    pub client_in: Option<Leg>,
    /// It, until it is dialled.
    pub client_in_later: Option<Later>,
    pub host: Option<Leg>,
    /// The host's leg does not know whose it is: the client tells it.
    pub is_told: bool,
    /// A turn at opening sessions, until this one is open.
    pub turn: Option<OwnedSemaphorePermit>,
    pub up: Flow,
    pub down: Flow,
    /// Somebody else ends it; whatever is under way then is lost.
    pub is_doomed: bool,
    /// When the client saw that end.
    pub ended_at: Option<Instant>,
}

impl Session {
    #[must_use]
    pub fn new(number: u32, profile: Profile) -> Self {
        let stream = u64::from(number) * 2;
        Self {
            profile,
            sources: profile.sources(),
            state: State::Opening,
            plan: 0,
            client: None,
            client_in: None,
            client_in_later: None,
            host: None,
            is_told: false,
            turn: None,
            up: Flow::new(stream),
            down: Flow::new(stream + 1),
            is_doomed: false,
            ended_at: None,
        }
    }

    pub const fn leg(&mut self, wire: Wire) -> &mut Option<Leg> {
        match wire {
            Wire::Client => &mut self.client,
            Wire::ClientIn => &mut self.client_in,
            Wire::Host => &mut self.host,
        }
    }

    /// What this side speaks on.
    #[must_use]
    pub const fn speaks_on(&self, side: Role) -> Wire {
        match side {
            Role::Client if self.client_in.is_some() => Wire::ClientIn,
            Role::Client => Wire::Client,
            Role::Host => Wire::Host,
        }
    }

    /// A leg and what its side sends.
    pub const fn sender(&mut self, wire: Wire) -> Option<(&mut Leg, &mut Flow)> {
        let (leg, flow) = match wire {
            Wire::Client => (&mut self.client, &mut self.up),
            Wire::ClientIn => (&mut self.client_in, &mut self.up),
            Wire::Host => (&mut self.host, &mut self.down),
        };
        match leg {
            Some(leg) => Some((leg, flow)),
            None => None,
        }
    }

    /// A leg and what its side is sent.
    pub const fn receiver(&mut self, wire: Wire) -> Option<(&mut Leg, &mut Flow)> {
        let (leg, flow) = match wire {
            Wire::Client => (&mut self.client, &mut self.down),
            Wire::ClientIn => (&mut self.client_in, &mut self.down),
            Wire::Host => (&mut self.host, &mut self.up),
        };
        match leg {
            Some(leg) => Some((leg, flow)),
            None => None,
        }
    }

    /// Both ends hang up.
    pub fn drop_legs(&mut self) {
        (self.client, self.client_in, self.host) = (None, None, None);
        (self.client_in_later, self.turn) = (None, None);
    }

    /// What this side sends.
    pub const fn flow_of(&mut self, side: Role) -> &mut Flow {
        match side {
            Role::Client => &mut self.up,
            Role::Host => &mut self.down,
        }
    }

    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.client.as_ref().is_some_and(Leg::is_open)
            && self.host.as_ref().is_some_and(Leg::is_open)
    }

    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.up.is_settled() && self.down.is_settled()
    }

    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Closed | State::Failed)
    }
}
