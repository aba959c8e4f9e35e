//! What the owner task has done for it, because it takes time: each errand is
//! data when it is decided and data again when it is done.

use crate::broker::start_command::StartCommand;
use crate::broker::store::Store;
use crate::core::clock::UnixMillis;
use crate::core::ids::HostId;
use crate::core::placement::AssignmentKey;

/// To be done.
#[derive(Debug)]
pub(super) enum Errand {
    /// Keep in the database that this host is this user's, or (`undo`) that it
    /// is not.
    StoreAssignment {
        key: AssignmentKey,
        host: HostId,
        undo: bool,
    },
    StartHost {
        host: HostId,
        command: StartCommand,
    },
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Done {
    AssignmentStored { key: AssignmentKey, outcome: Result<(), String> },
    HostStarted { host: HostId, outcome: Result<(), String> },
}

impl Errand {
    pub(super) async fn run(self, store: Store) -> Done {
        match self {
            Self::StoreAssignment { key, host, undo } => {
                let stored = store.set_assigned(key.clone(), host, !undo, UnixMillis::now()).await;
                let outcome = stored.map_err(|error| error.to_string());
                Done::AssignmentStored { key, outcome }
            }
            Self::StartHost { host, command } => {
                let outcome = command.run().await.map_err(|error| error.to_string());
                Done::HostStarted { host, outcome }
            }
        }
    }
}
