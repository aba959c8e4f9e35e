//! Whose process is at the other end of a local connection. The kernel knows:
//! `/proc/net/tcp` and `tcp6` name the owner of every socket (proc(5)).
//!
//! A loopback port is open to every user of the machine, and whoever connects
//! to ours is signed in as us.

use std::io::{self, BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
const ROOT: u32 = 0;

/// Who may connect: ourselves, and root, who can be us anyway.
#[must_use]
pub const fn is_allowed(peer: u32, ours: u32) -> bool {
    peer == ours || peer == ROOT
}

/// The user whose socket `peer` is, connected to `local`. `None` when there is
/// no such socket, or when its process has closed it: it belongs to nobody
/// then, and the kernel would call it root's. Reads files: not for a task that
/// must not block.
///
/// # Errors
/// When the kernel's tables cannot be read.
pub fn owner(peer: SocketAddr, local: SocketAddr) -> io::Result<Option<u32>> {
    // A table that changes while it is read may lack a line.
    for table in TABLES.into_iter().chain(TABLES) {
        if !Path::new(table).exists() {
            continue; // a kernel without IPv6
        }
        for line in BufReader::new(std::fs::File::open(table)?).lines() {
            if let Some(uid) = owner_in(&line?, peer, local) {
                return Ok(Some(uid));
            }
        }
    }
    Ok(None)
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …`
fn owner_in(line: &str, peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    let mut columns = line.split_ascii_whitespace().skip(1);
    let is_it = address(columns.next()?)? == canonical(peer)
        && address(columns.next()?)? == canonical(local);
    if !is_it {
        return None;
    }
    let uid = columns.nth(4)?.parse().ok()?;
    let inode: u64 = columns.nth(1)?.parse().ok()?;
    (inode != 0).then_some(uid)
}

/// `0100007F:1F90`: words of 32 bits as the machine has them, then the port.
fn address(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<[u8; 4]>> = address
        .as_bytes()
        .chunks(8)
        .map(|word| {
            let word = std::str::from_utf8(word).ok()?;
            Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
        })
        .collect();
    let address = match words?.as_slice() {
        [word] => IpAddr::V4(Ipv4Addr::from(*word)),
        words => IpAddr::from(<[u8; 16]>::try_from(words.as_flattened()).ok()?),
    };
    Some((address.to_canonical(), port))
}

fn canonical(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn own() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn the_kernel_says_whose_a_connection_is() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(listen) else {
                continue; // a machine without IPv6
            };
            let local = listener.local_addr().unwrap();
            let client = TcpStream::connect(local).unwrap();
            let (_accepted, peer) = listener.accept().unwrap();
            assert_eq!(owner(peer, local).unwrap(), Some(own()), "{listen}");
            drop(client);
            assert_eq!(owner(peer, local).unwrap(), None, "closed, it is nobody's: {listen}");
        }
    }

    #[test]
    fn lines_of_proc_are_read() {
        let peer = "127.0.0.1:8080".parse().unwrap();
        let local = "127.0.0.1:3389".parse().unwrap();
        let line = |from: &str, inode: u32| {
            format!(
                "   1: {from}:1F90 {}:0D3D 01 00000000:00000000 00:00000000 00000000  1000        0 {inode} 1 x",
                v4()
            )
        };
        // The kernel prints words in the machine's order; so does this.
        fn v4() -> String {
            format!("{:08X}", u32::from_ne_bytes([127, 0, 0, 1]))
        }
        assert_eq!(owner_in(&line(&v4(), 77), peer, local), Some(1000));
        assert_eq!(owner_in(&line(&v4(), 0), peer, local), None);
        assert_eq!(owner_in(&line(&v4(), 77), local, peer), None);
        for odd in ["", "sl local", "1: x y", "1: 0:0 0:0 01", "1: 00:1 zz:1 a b c d e f g h"] {
            assert_eq!(owner_in(odd, peer, local), None, "{odd}");
        }
        let mapped =
            format!("0000000000000000{:08X}{}", u32::from_ne_bytes([0, 0, 255, 255]), v4());
        assert_eq!(address(&format!("{mapped}:1F90")), Some(canonical(peer)));
    }

    #[test]
    fn only_we_and_root_may_connect() {
        assert!(is_allowed(1000, 1000) && is_allowed(0, 1000));
        assert!(!is_allowed(1001, 1000) && !is_allowed(1000, 0));
    }
}
