//! A session as the bench plays it: both of its ends.

use std::time::Instant;

use super::flow::Flow;
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

/// Both ends of one session.
#[derive(Debug)]
pub struct Session {
    pub profile: Profile,
    pub sources: Vec<Source>,
    pub state: State,
    /// Of the messages that are planned; those of an earlier plan are void.
    pub plan: u32,
    pub client: Option<Leg>,
    pub host: Option<Leg>,
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
            host: None,
            up: Flow::new(stream),
            down: Flow::new(stream + 1),
            is_doomed: false,
            ended_at: None,
        }
    }

    pub const fn leg(&mut self, side: Role) -> &mut Option<Leg> {
        match side {
            Role::Client => &mut self.client,
            Role::Host => &mut self.host,
        }
    }

    /// A leg and what it sends.
    pub const fn sender(&mut self, side: Role) -> Option<(&mut Leg, &mut Flow)> {
        let (leg, flow) = match side {
            Role::Client => (&mut self.client, &mut self.up),
            Role::Host => (&mut self.host, &mut self.down),
        };
        match leg {
            Some(leg) => Some((leg, flow)),
            None => None,
        }
    }

    /// A leg and what it is sent.
    pub const fn receiver(&mut self, side: Role) -> Option<(&mut Leg, &mut Flow)> {
        let (leg, flow) = match side {
            Role::Client => (&mut self.client, &mut self.down),
            Role::Host => (&mut self.host, &mut self.up),
        };
        match leg {
            Some(leg) => Some((leg, flow)),
            None => None,
        }
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
