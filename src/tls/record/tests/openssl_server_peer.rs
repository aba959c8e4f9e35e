//! `openssl s_server` against our client side.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use super::openssl_peer::{OpenSsl, PATIENCE, Wire, openssl_is_here, options};
use super::*;

/// `s_server` with its certificate in files of its own.
struct SServer {
    process: OpenSsl,
    address: SocketAddr,
    identity: Identity,
    folder: PathBuf,
}

impl SServer {
    fn start(suite: SupportedCipherSuite, name: &str, extra: &[&str]) -> Self {
        let identity = Identity::new();
        let folder = std::env::temp_dir().join(format!("ringway-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (certificate, key) = (folder.join("cert.der"), folder.join("key.der"));
        std::fs::write(&certificate, &identity.certificate).unwrap();
        std::fs::write(&key, identity.key.secret_der()).unwrap();
        let mut arguments = vec!["s_server", "-accept", "127.0.0.1:0", "-naccept", "1"];
        arguments.extend(["-certform", "DER", "-cert", certificate.to_str().unwrap()]);
        arguments.extend(["-keyform", "DER", "-key", key.to_str().unwrap()]);
        arguments.extend(options(suite));
        arguments.extend(extra);
        let process = OpenSsl::start(&arguments);
        let line = process.wait_for_line(|line| line.starts_with("ACCEPT "));
        let address = line.trim_start_matches("ACCEPT ").trim().parse().unwrap();
        Self { process, address, identity, folder }
    }

    fn dial(&self, suite: SupportedCipherSuite) -> Wire {
        dial(self.address, self.identity.client(suite))
    }
}

impl Drop for SServer {
    fn drop(&mut self) {
        let _best_effort = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn s_server_reverses_what_we_send() {
    if !openssl_is_here("s_server_reverses_what_we_send") {
        return;
    }
    let line: String = ('a'..='z').cycle().take(8000).collect();
    let reversed: String = line.chars().rev().collect();
    for suite in ALL {
        let server = SServer::start(suite, &format!("rev-{:?}", suite.suite()), &["-rev"]);
        let mut wire = server.dial(suite);
        for round in 0..40 {
            if round == 20 && suite.tls13().is_some() {
                let update = control(|out| wire.records.seal_key_update(out, true));
                wire.send_record(&update);
            }
            wire.send(format!("{line}\n").as_bytes());
            let answer = wire.receive_data(line.len() + 1);
            assert_eq!(answer, format!("{reversed}\n").as_bytes(), "{suite:?} round {round}");
        }
        let bye = control(|out| wire.records.seal_close_notify(out));
        wire.send_record(&bye);
        while wire.receive().is_some() {}
        assert!(wire.records.peer_closed(), "{suite:?}");
    }
}

#[test]
fn s_server_updates_keys_and_its_q_is_truncation() {
    if !openssl_is_here("s_server_updates_keys_and_its_q_is_truncation") {
        return;
    }
    let mut server = SServer::start(TLS13, "update", &[]);
    let mut wire = server.dial(TLS13);
    for (command, owed) in [("k", false), ("K", true)] {
        wire.send(b"hello from us\n");
        server.process.wait_for_line(|line| line == "hello from us");
        server.process.type_line("its tickets are behind us");
        assert_eq!(wire.receive_data(1), b"its tickets are behind us\n");
        server.process.type_line(command);
        while wire.records.sequences().0 != 0 {
            let received = wire.receive().unwrap().unwrap();
            assert!(received.data.is_empty());
        }
        assert_eq!(wire.records.key_update_owed(), owed);
        server.process.type_line("hello from openssl");
        assert_eq!(wire.receive_data(1), b"hello from openssl\n");
        wire.send(b"under our next key\n");
        server.process.wait_for_line(|line| line == "under our next key");
    }
    server.process.type_line("Q");
    while wire.receive().is_some() {}
    assert!(!wire.records.peer_closed(), "that command drops the connection: truncation");
}

#[test]
fn s_server_is_refused_to_renegotiate() {
    if !openssl_is_here("s_server_is_refused_to_renegotiate") {
        return;
    }
    let mut server = SServer::start(TLS12, "renegotiate", &[]);
    let mut wire = server.dial(TLS12);
    wire.send(b"hello\n");
    server.process.wait_for_line(|line| line == "hello");
    server.process.type_line("r");
    assert_eq!(wire.receive(), Some(Err(RecordError::Renegotiation)));
}

/// Dials and shakes hands as client.
fn dial(address: SocketAddr, config: ClientConfig) -> Wire {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut client = ClientHandshake::new(Arc::new(config), localhost()).unwrap();
    let mut buffer = [0; 4096];
    loop {
        stream.write_all(&client.take_outgoing()).unwrap();
        if client.is_established() {
            break;
        }
        let len = stream.read(&mut buffer).unwrap();
        assert!(len > 0, "the server left during the handshake");
        client.feed(&buffer[..len]).unwrap();
    }
    Wire::over(stream, client.into_keys().unwrap())
}
