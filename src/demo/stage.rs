//! What roles that run for a while need of their machine: ports and a place.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};

/// A port of the kernel's choice, held by a socket that is bound and never
/// listens: nobody else is given it, and with `SO_REUSEADDR` a listener may
/// come, go and come again.
#[derive(Debug)]
pub struct ReservedPort {
    pub address: SocketAddr,
    _holder: Socket,
}

impl ReservedPort {
    /// # Errors
    /// When no port is free.
    pub fn new() -> anyhow::Result<Self> {
        let holder = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        holder.set_reuse_address(true)?;
        holder.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).context("no free port")?;
        let address = holder.local_addr()?.as_socket().context("not an IP address")?;
        Ok(Self { address, _holder: holder })
    }
}

/// A directory of one's own, removed when dropped.
#[derive(Debug)]
pub struct ScratchDirectory(PathBuf);

impl ScratchDirectory {
    /// # Errors
    /// When the system's temporary directory takes none.
    pub fn new() -> anyhow::Result<Self> {
        let mut random = [0_u8; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| anyhow::anyhow!("no randomness"))?;
        let path = std::env::temp_dir().join(format!("ringway-{}", hex::encode(random)));
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
