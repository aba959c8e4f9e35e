//! Who may administer a role through its Unix socket.

use std::path::Path;

use super::Findings;

/// The kernel's `sun_path`, with the zero at its end.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Accounts that may, besides root and the service's own. The kernel says who
/// is at the other end (`SO_PEERCRED`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    pub uids: Vec<u32>,
    /// Primary groups: those of `sudo -g`, `sg` or a service's `Group=`.
    pub gids: Vec<u32>,
}

impl Peers {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.uids.is_empty() && self.gids.is_empty()
    }
}

/// A path must fit into what the kernel takes.
pub(super) fn check_socket(found: &mut Findings, role: &str, socket: &Path) {
    let bytes = socket.as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        found.add(
            format!("{role}.admin_socket"),
            format!("has {bytes} bytes, and a socket's path has at most {SOCKET_PATH_BYTES_MAX}"),
            "name a shorter path",
        );
    }
}

/// A socket in the state directory cannot be reached by others.
pub(super) fn check_peers(found: &mut Findings, role: &str, socket: Option<&Path>, peers: &Peers) {
    if socket.is_some() || !found.is_sound(&format!("{role}.admin_socket")) {
        return;
    }
    let settings = [("admin_uids", &peers.uids), ("admin_gids", &peers.gids)];
    for (key, _) in settings.into_iter().filter(|(_, ids)| !ids.is_empty()) {
        found.add(
            format!("{role}.{key}"),
            "lets nobody in: the socket is in state_dir, which only the service may enter",
            format!("set admin_socket, for example to /run/ringway-{role}/admin.sock"),
        );
    }
}
