//! The `openssl` binary as the peer, over loopback sockets; here `s_client`
//! against our server side.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver as Inbox, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::*;

/// Longest wait for anything that a peer must do.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// True when there is an `openssl` to test against. Its absence is said aloud,
/// past the test harness's capture, and fails where `CI` is set.
pub fn openssl_is_here(test: &str) -> bool {
    let found =
        Command::new("openssl").arg("version").output().is_ok_and(|run| run.status.success());
    if !found {
        assert!(std::env::var_os("CI").is_none(), "openssl must be installed in CI");
        let mut stderr = std::io::stderr();
        let _unseen = writeln!(stderr, "SKIPPED {test}: there is no `openssl` in PATH");
    }
    found
}

/// How OpenSSL's command line asks for exactly this suite.
pub fn options(suite: SupportedCipherSuite) -> [&'static str; 3] {
    match ALL.iter().position(|&known| known == suite).unwrap() {
        0 => ["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"],
        1 => ["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"],
        2 => ["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
        3 => ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
        4 => ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"],
        _ => ["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"],
    }
}

/// An `openssl` that is ended with the test.
pub struct OpenSsl {
    pub child: Child,
    stdin: Option<ChildStdin>,
    lines: Inbox<String>,
}

impl OpenSsl {
    pub fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new("openssl")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let (sender, lines) = channel();
        forward(child.stdout.take().unwrap(), sender.clone());
        forward(child.stderr.take().unwrap(), sender);
        Self { child, stdin, lines }
    }

    /// Types a line. OpenSSL takes a letter alone for a command.
    pub fn type_line(&mut self, line: &str) {
        self.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Waits for a line of output or of complaint.
    pub fn wait_for_line(&self, wanted: impl Fn(&str) -> bool) -> String {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if wanted(&line) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("no such line from openssl ({error}); seen: {seen:#?}"),
            }
        }
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _already_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn forward(from: impl std::io::Read + Send + 'static, to: Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            if to.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
}

/// One established connection over a blocking socket.
pub struct Wire {
    stream: TcpStream,
    pub records: RecordLayer,
    receiver: Receiver,
    /// What came together with the handshake.
    pending: Received,
}

impl Wire {
    /// Sends data as the relay would, with the key update that may be owed.
    pub fn send(&mut self, data: &[u8]) {
        for chunk in data.chunks(MAX_PLAINTEXT_LEN) {
            if self.records.wants_key_update() {
                let update = control(|out| self.records.seal_key_update(out, false));
                self.stream.write_all(&update).unwrap();
            }
            self.stream.write_all(&seal(&mut self.records, chunk)).unwrap();
        }
    }

    pub fn send_record(&mut self, record: &[u8]) {
        self.stream.write_all(record).unwrap();
    }

    /// Reads until something was received; `None` at the end of the stream.
    pub fn receive(&mut self) -> Option<Result<Received, RecordError>> {
        let mut received = std::mem::take(&mut self.pending);
        let mut buffer = [0; 32 * 1024];
        while received == Received::default() {
            let len = self.stream.read(&mut buffer).unwrap();
            if len == 0 {
                return None;
            }
            let taken = self.receiver.take(&mut self.records, &buffer[..len], &mut received);
            if let Err(error) = taken {
                return Some(Err(error));
            }
        }
        Some(Ok(received))
    }

    /// Receives this much data, whatever events come with it.
    pub fn receive_data(&mut self, len: usize) -> Vec<u8> {
        let mut data = Vec::new();
        while data.len() < len {
            data.extend(self.receive().expect("the peer ended too early").unwrap().data);
        }
        data
    }

    pub fn over(stream: TcpStream, established: EstablishedTls) -> Self {
        let EstablishedTls { mut records, leftover_ciphertext, leftover_plaintext, .. } =
            established;
        let mut pending = Received { data: leftover_plaintext, events: Vec::new() };
        let mut receiver = Receiver::new();
        receiver.take(&mut records, &leftover_ciphertext, &mut pending).unwrap();
        Self { stream, records, receiver, pending }
    }
}

/// Accepts one connection and shakes hands as server.
fn accept(listener: &TcpListener, config: Arc<ServerConfig>) -> Wire {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut server = ServerHandshake::new(config).unwrap();
    let mut buffer = [0; 4096];
    while !server.is_established() {
        let len = stream.read(&mut buffer).unwrap();
        assert!(len > 0, "the client left during the handshake");
        let fed = server.feed(&buffer[..len]);
        stream.write_all(&server.take_outgoing()).unwrap();
        fed.unwrap();
    }
    Wire::over(stream, server.into_keys().unwrap())
}

/// Runs our server for one connection in a thread; `s_client` connects to it.
fn serve<T: Send + 'static>(
    suite: SupportedCipherSuite,
    extra: &[&str],
    session: impl FnOnce(Wire) -> T + Send + 'static,
) -> (OpenSsl, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let config = Identity::new().server();
    let thread = std::thread::spawn(move || session(accept(&listener, config)));
    let mut arguments = vec!["s_client", "-connect", &address, "-servername", "localhost"];
    arguments.extend(options(suite));
    arguments.extend(extra);
    (OpenSsl::start(&arguments), thread)
}

#[test]
fn s_client_gets_back_what_it_sends() {
    if !openssl_is_here("s_client_gets_back_what_it_sends") {
        return;
    }
    let line = "all work and no play makes jack a dull boy ".repeat(9);
    let lines = 1000;
    for suite in ALL {
        let total = (line.len() + 1) * lines;
        let (mut client, server) = serve(suite, &["-quiet", "-nocommands"], move |mut wire| {
            let mut echoed = 0;
            while echoed < total {
                let received = wire.receive().unwrap().unwrap();
                wire.send(&received.data);
                echoed += received.data.len();
            }
            let bye = control(|out| wire.records.seal_close_notify(out));
            wire.send_record(&bye);
            echoed
        });
        let mut stdin = client.stdin.take().unwrap();
        let text = format!("{line}\n").repeat(lines);
        let typist = std::thread::spawn(move || stdin.write_all(text.as_bytes()).map(|()| stdin));
        for at in 0..lines {
            let got = client.wait_for_line(|got| got.starts_with("all"));
            assert_eq!(got, line, "{suite:?} line {at}");
        }
        assert_eq!(server.join().unwrap(), total);
        drop(typist.join().unwrap());
    }
}

#[test]
fn s_client_updates_keys_and_closes() {
    if !openssl_is_here("s_client_updates_keys_and_closes") {
        return;
    }
    for suite in ALL.into_iter().filter(|suite| suite.tls13().is_some()) {
        let (told, tell) = channel();
        let (mut client, server) = serve(suite, &[], move |mut wire| {
            loop {
                let received = wire.receive().expect("ended without close_notify").unwrap();
                if !received.data.is_empty() {
                    wire.send(&received.data);
                }
                for event in received.events {
                    told.send((event, wire.records.key_update_owed())).unwrap();
                    if event == Opened::CloseNotify {
                        return wire.records.sequences();
                    }
                }
            }
        });
        client.type_line("before");
        client.wait_for_line(|line| line == "before");
        client.type_line("k");
        assert_eq!(tell.recv_timeout(PATIENCE).unwrap(), (Opened::Control, false), "{suite:?}");
        client.type_line("after an update");
        client.wait_for_line(|line| line == "after an update");
        client.type_line("K");
        assert_eq!(tell.recv_timeout(PATIENCE).unwrap(), (Opened::Control, true));
        client.type_line("after a request");
        client.wait_for_line(|line| line == "after a request");
        client.type_line("Q");
        assert_eq!(tell.recv_timeout(PATIENCE).unwrap(), (Opened::CloseNotify, false));
        assert_eq!(server.join().unwrap(), (2, 1), "data and close_notify; data; all renewed");
    }
}

#[test]
fn s_client_follows_our_key_update() {
    if !openssl_is_here("s_client_follows_our_key_update") {
        return;
    }
    let (mut client, server) = serve(TLS13, &[], |mut wire| {
        wire.send(b"old key\n");
        let update = control(|out| wire.records.seal_key_update(out, true));
        wire.send_record(&update);
        wire.send(b"new key\n");
        let data = wire.receive_data(1);
        (data, wire.records.sequences().0, wire.records.key_update_owed())
    });
    client.wait_for_line(|line| line == "old key");
    client.wait_for_line(|line| line == "new key");
    client.type_line("heard");
    let (data, sequence, owed) = server.join().unwrap();
    assert_eq!(data, b"heard\n");
    assert_eq!((sequence, owed), (1, false), "its answer renewed its key and asks for nothing");
}

#[test]
fn s_client_is_refused_to_renegotiate() {
    if !openssl_is_here("s_client_is_refused_to_renegotiate") {
        return;
    }
    let (mut client, server) = serve(TLS12, &[], |mut wire| {
        wire.send(b"ready\n");
        let error = wire.receive().unwrap().unwrap_err();
        let refusal = control(|out| wire.records.seal_alert(out, error.alert().unwrap()));
        wire.send_record(&refusal);
        error
    });
    client.wait_for_line(|line| line == "ready");
    client.type_line("R");
    assert_eq!(server.join().unwrap(), RecordError::Renegotiation);
    client.wait_for_line(|line| line.contains("no renegotiation"));
}

#[test]
fn s_client_closes_tls12_cleanly_and_its_death_is_truncation() {
    if !openssl_is_here("s_client_closes_tls12_cleanly_and_its_death_is_truncation") {
        return;
    }
    for clean in [true, false] {
        let (mut client, server) = serve(TLS12, &[], |mut wire| {
            wire.send(b"ready\n");
            let _events = wire.receive();
            wire.records.peer_closed()
        });
        client.wait_for_line(|line| line == "ready");
        if clean {
            client.type_line("Q");
        } else {
            client.child.kill().unwrap();
        }
        assert_eq!(server.join().unwrap(), clean);
    }
}
