//! Ports that stay ours while nobody listens on them.

use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// A port of the kernel's choice, held by a socket that is bound and does not
/// listen: nobody else gets it, and a listener with `SO_REUSEPORT` may come,
/// go and come again.
#[derive(Debug)]
pub struct ReservedPort {
    address: SocketAddr,
    _holder: Socket,
}

impl ReservedPort {
    pub fn new() -> Self {
        let holder = shared_socket();
        holder.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = holder.local_addr().unwrap().as_socket().unwrap();
        Self { address, _holder: holder }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub fn listen(&self) -> TcpListener {
        let socket = shared_socket();
        socket.bind(&self.address.into()).unwrap();
        socket.listen(64).unwrap();
        socket.into()
    }
}

fn shared_socket() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket
}
