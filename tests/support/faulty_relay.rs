//! A relay without TLS that dials its target for every connection, and does to
//! the bytes for the client what the test wants.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

/// What happens at a position of the bytes that go to the client.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    None,
    /// One bit is turned.
    Turned(usize),
    /// One byte is lost.
    Lost(usize),
    /// One byte comes twice.
    Doubled(usize),
    /// The stream ends.
    Cut(usize),
}

/// Listens until the process ends.
pub fn start(target: SocketAddr, fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(host) = TcpStream::connect(target) else { continue };
            let up = (client.try_clone().unwrap(), host.try_clone().unwrap());
            std::thread::spawn(move || copy(up.0, up.1, Fault::None));
            std::thread::spawn(move || copy(host, client, fault));
        }
    });
    address
}

fn copy(mut from: TcpStream, mut to: TcpStream, fault: Fault) {
    let (mut at, mut buffer) = (0, [0; 16 * 1024]);
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let mut bytes = buffer[..length].to_vec();
        let mut cut = false;
        let here = |position: usize| position.checked_sub(at).filter(|index| *index < length);
        match fault {
            Fault::Turned(position) => {
                here(position).into_iter().for_each(|index| bytes[index] ^= 1);
            }
            Fault::Lost(position) => {
                here(position).into_iter().for_each(|index| {
                    bytes.remove(index);
                });
            }
            Fault::Doubled(position) => {
                here(position).into_iter().for_each(|index| bytes.insert(index, bytes[index]));
            }
            Fault::Cut(position) => {
                if let Some(index) = here(position) {
                    bytes.truncate(index);
                    cut = true;
                }
            }
            Fault::None => {}
        }
        at += length;
        if to.write_all(&bytes).is_err() || cut {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
