//! The ring against real sockets.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;

use super::*;

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

fn wait_for(ring: &mut Ring) -> Completion {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(completion) = ring.next() {
            return completion;
        }
        assert!(std::time::Instant::now() < deadline, "nothing completed");
        ring.submit_and_wait(Duration::from_millis(100)).unwrap();
        ring.collect();
    }
}

const TOKEN: Token = Token { leg: 5, generation: 9 };

#[test]
fn receives_into_shared_buffers_until_the_end_of_the_stream() {
    let mut ring = Ring::new(RingSettings::default()).unwrap();
    let (mut peer, socket) = pair();
    ring.receive(socket.as_fd(), TOKEN);
    peer.write_all(b"hello").unwrap();
    let Completion::Received { token, bytes, armed } = wait_for(&mut ring) else { panic!() };
    assert_eq!((token, armed), (TOKEN, true));
    assert_eq!(ring.bytes(&bytes), b"hello");
    ring.recycle(bytes);
    drop(peer);
    let Completion::ReceiveEnded { end, .. } = wait_for(&mut ring) else { panic!() };
    assert_eq!(end, ReceiveEnd::EndOfStream);
    assert_eq!(ring.in_kernel(), 0);
}

#[test]
fn runs_out_of_buffers_and_says_so() {
    let mut ring = Ring::new(RingSettings { rx_buffers: 1, ..RingSettings::default() }).unwrap();
    let (mut peer, socket) = pair();
    ring.receive(socket.as_fd(), TOKEN);
    peer.write_all(b"one").unwrap();
    let Completion::Received { bytes, .. } = wait_for(&mut ring) else { panic!() };
    peer.write_all(b"two").unwrap();
    let Completion::ReceiveEnded { end, .. } = wait_for(&mut ring) else { panic!() };
    assert_eq!(end, ReceiveEnd::NoBuffer);
    ring.recycle(bytes);
    ring.receive(socket.as_fd(), TOKEN);
    let Completion::Received { bytes, .. } = wait_for(&mut ring) else { panic!() };
    assert_eq!(ring.bytes(&bytes), b"two");
    ring.recycle(bytes);
}

#[test]
fn a_slot_is_the_rings_until_it_was_sent() {
    let mut ring = Ring::new(RingSettings::default()).unwrap();
    let mut arena = Arena::new(1).unwrap();
    let (mut peer, socket) = pair();
    let mut slot = arena.take(1);
    slot.room()[..4].copy_from_slice(b"data");
    slot.commit(4);
    ring.send(socket.as_fd(), TOKEN, slot);
    let Completion::Sent { slot, outcome, .. } = wait_for(&mut ring) else { panic!() };
    assert_eq!((outcome, slot.unsent()), (Ok(4), &b"data"[..]));
    let mut got = [0; 4];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"data");
}

#[test]
fn what_was_received_is_sent_from_where_it_lies() {
    let mut ring = Ring::new(RingSettings { rx_buffers: 1, ..RingSettings::default() }).unwrap();
    let mut arena = Arena::new(2).unwrap();
    let (mut peer, socket) = pair();
    ring.receive(socket.as_fd(), TOKEN);
    let mut slots = Vec::new();
    for message in [b"one", b"two"] {
        peer.write_all(message).unwrap();
        let Completion::Received { bytes, .. } = wait_for(&mut ring) else { panic!() };
        let mut slot = ring.take_over(bytes, &mut arena).unwrap();
        slot.begin(b"<", 1);
        assert_eq!(slot.unread(), [b"<", &message[..]].concat());
        slot.mark_read(4);
        slot.commit(5);
        slots.push(slot);
    }
    peer.write_all(b"three").unwrap();
    let Completion::Received { bytes, .. } = wait_for(&mut ring) else { panic!() };
    let bytes = ring.take_over(bytes, &mut arena).expect_err("no slot is free");
    assert_eq!(ring.bytes(&bytes), b"three");
    ring.recycle(bytes);

    for (slot, sent) in slots.into_iter().zip([b"\0<one", b"\0<two"]) {
        ring.send(socket.as_fd(), TOKEN, slot);
        let Completion::Sent { slot, outcome, .. } = wait_for(&mut ring) else { panic!() };
        assert_eq!(outcome, Ok(5));
        arena.put(slot);
        let mut got = [0; 5];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(&got, sent);
    }
    assert_eq!(arena.free_slots(), 2);
}

#[test]
fn the_kernel_has_fewer_buffers_while_it_fills_them() {
    let mut ring = Ring::new(RingSettings::default()).unwrap();
    let receive = |ring: &mut Ring, bytes| {
        // Nothing is armed: no completion can name the same buffer.
        for id in 0..3 {
            let filled = ring.receive.filled(id, bytes).unwrap();
            ring.recycle(filled);
        }
        ring.receives_at_once()
    };
    assert_eq!(receive(&mut ring, 90), 8);
    assert_eq!(receive(&mut ring, RX_BUFFER_BYTES), 2);
    assert_eq!(receive(&mut ring, RX_BUFFER_BYTES / 2), 4);
    assert_eq!(receive(&mut ring, 90), 8);
    assert_eq!(ring.receives_at_once(), 8, "a turn without any changes nothing");
}

#[test]
fn a_receive_can_be_stopped_and_armed_again() {
    let mut ring = Ring::new(RingSettings::default()).unwrap();
    let (mut peer, socket) = pair();
    ring.receive(socket.as_fd(), TOKEN);
    ring.submit_and_wait(Duration::from_millis(1)).unwrap();
    ring.stop_receiving(TOKEN);
    let Completion::ReceiveEnded { end, .. } = wait_for(&mut ring) else { panic!() };
    assert_eq!(end, ReceiveEnd::Stopped);
    peer.write_all(b"later").unwrap();
    ring.receive(socket.as_fd(), TOKEN);
    let Completion::Received { bytes, .. } = wait_for(&mut ring) else { panic!() };
    assert_eq!(ring.bytes(&bytes), b"later");
    ring.recycle(bytes);
}

#[test]
fn a_doorbell_wakes_the_ring_from_another_thread() {
    let mut ring = Ring::new(RingSettings::default()).unwrap();
    let bell = std::sync::Arc::new(Doorbell::new().unwrap());
    ring.watch(&bell);
    let ringer = std::sync::Arc::clone(&bell);
    let thread = std::thread::spawn(move || ringer.ring());
    assert!(matches!(wait_for(&mut ring), Completion::Rung));
    bell.hush();
    thread.join().unwrap();
}

#[test]
fn dropping_a_ring_with_work_in_flight_is_safe() {
    let mut ring = Ring::new(RingSettings::default()).unwrap();
    let mut arena = Arena::new(8).unwrap();
    let (_peer, socket) = pair();
    ring.receive(socket.as_fd(), TOKEN);
    for _ in 0..8 {
        // More than the socket buffers take while nobody reads.
        let mut slot = arena.take(1);
        let length = slot.room().len();
        slot.commit(length);
        ring.send(socket.as_fd(), TOKEN, slot);
    }
    ring.submit_and_wait(Duration::from_millis(10)).unwrap();
    drop(ring);
}

/// What a sender can fill before the worker looks for the first time.
#[test]
fn a_bounded_receive_leaves_buffers_for_the_others() {
    let receive_all = |features| {
        let mut ring = Ring::new(RingSettings { features, ..RingSettings::default() }).unwrap();
        let (mut peer, socket) = std::os::unix::net::UnixStream::pair().unwrap();
        peer.set_nonblocking(true).unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&peer, 1 << 22).unwrap();
        let mut written = 0;
        while let Ok(length) = peer.write(&[7; 65_536]) {
            written += length;
        }
        let (mut received, mut ends, mut most) = (0, 0, 0);
        ring.receive(socket.as_fd(), TOKEN);
        while received < written {
            ring.submit_and_wait(Duration::from_secs(10)).unwrap();
            ring.collect();
            let before = received;
            while let Some(completion) = ring.next() {
                let armed = match completion {
                    Completion::Received { bytes, armed, .. } => {
                        received += bytes.len();
                        ring.recycle(bytes);
                        armed
                    }
                    _ => false,
                };
                if !armed {
                    ends += 1;
                    ring.receive(socket.as_fd(), TOKEN);
                }
            }
            most = most.max(received - before);
        }
        (ends, most, written)
    };
    let bound = receive::RECEIVE_BYTES_MAX as usize;
    let (ends, most, written) = receive_all(Features::LINUX_6_1);
    assert!(ends < written / bound && most > bound, "{ends} ends, {most} of {written} at once");
    let features = Features::probe().unwrap();
    if features.bounded_receive {
        let (ends, most, written) = receive_all(features);
        assert!(ends >= written / bound && most <= bound, "{ends} ends, {most} of {written}");
    }
}
