//! Ends that must come: of a stop whatever handlers do, of paused connections whose clients left, of loops
//! that panic. And what may not end too early: clients that have ended only their own half.

use std::io::{Read, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use zmqgame_core::stream::packet::{Header, KIND_CLOSE, KIND_OPEN};
use zmqgame_reactor::edge::config::{EdgeConfig, Framing};
use zmqgame_reactor::edge::{Dial, Edge, Handler, Out, ThreadDied, Write};

use crate::clients::{Folder, tcp};
use crate::common::{DEADLINE, count, counter, pause, reasons, rows_until, until};
use crate::echo::{Way, with_echo};

/// Connects again whenever its connection ends.
struct Faithful {
    server: String,
    told: Sender<std::io::Result<u64>>,
}

impl Handler for Faithful {
    fn boot(&mut self, out: &mut Out<'_>) -> Option<u64> {
        self.close(0, "", out);
        None
    }

    fn close(&mut self, _connection: u64, _reason: &str, out: &mut Out<'_>) {
        let dial = Dial::tcp(&self.server, Framing::Raw, None).unwrap();
        let _ = self.told.send(out.connect(dial));
    }

    fn shutdown(&mut self, out: &mut Out<'_>) {
        self.close(0, "", out);
    }
}

/// Fails when `work` does not come back; its thread is left alone then.
fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, is_done) = channel();
    std::thread::spawn(move || done.send(work()));
    is_done.recv_timeout(DEADLINE).expect(what)
}

#[test]
fn a_stop_ends_a_handler_that_connects_again() {
    with_echo(EdgeConfig::default(), Way::Handler, |server| {
        let address = server.listen_tcp("127.0.0.1:0", Framing::Raw).unwrap();
        let (told, made) = channel();
        let mut handler = Some(Faithful {
            server: address,
            told,
        });
        let edge = Edge::start_with(EdgeConfig::default(), |_| Some(Box::new(handler.take()?)));
        let edge = edge.unwrap();
        assert!(made.recv_timeout(DEADLINE).unwrap().is_ok());
        until("it is connected", || server.connections() == 1);
        let edge = in_time("the stop comes back", move || {
            edge.stop(100);
            edge
        });
        assert_eq!(edge.connections(), 0);
        // Of `shutdown`, and of the close of the one connection there was.
        let refused: Vec<_> = made.iter().map(|made| made.unwrap_err().kind()).collect();
        assert_eq!(refused, [std::io::ErrorKind::NotConnected; 2]);
    });
}

/// Stands still at each packet until it is told to go on, by its death or a signal; panics at `die`.
struct Standing {
    stands: Sender<()>,
    go_on: Receiver<()>,
    closes: Sender<String>,
}

impl Handler for Standing {
    fn traffic(&mut self, _connection: u64, _header: Header, payload: &[u8], _out: &mut Out<'_>) {
        let _ = self.stands.send(());
        let _ = self.go_on.recv();
        assert!(payload != b"die", "as it was told");
    }

    fn close(&mut self, _connection: u64, reason: &str, _out: &mut Out<'_>) {
        let _ = self.closes.send(reason.to_owned());
    }
}

/// An edge whose only loop stands, with what it takes to make it go on, and one connection and its client.
struct Stood {
    edge: Edge,
    client: std::net::TcpStream,
    go_on: Sender<()>,
    stands: Receiver<()>,
    closes: Receiver<String>,
    id: u64,
}

fn stood(config: EdgeConfig, payload: &[u8]) -> Stood {
    let (stands, is_standing) = channel();
    let (go_on, goes_on) = channel();
    let (closes, closed) = channel();
    let mut handler = Some(Standing {
        stands,
        go_on: goes_on,
        closes,
    });
    let edge = Edge::start_with(config, |_| Some(Box::new(handler.take()?))).unwrap();
    let address = edge.listen_tcp("127.0.0.1:0", Framing::Raw).unwrap();
    let mut client = tcp(&address);
    client.write_all(payload).unwrap();
    is_standing.recv_timeout(DEADLINE).unwrap();
    Stood {
        edge,
        client,
        go_on,
        stands: is_standing,
        closes: closed,
        // The first slot of the first loop.
        id: 1 << 32,
    }
}

#[test]
fn a_stop_does_not_wait_for_ever_for_a_handler_and_leaves_nobody_waiting() {
    let Stood { edge, go_on, .. } = stood(EdgeConfig::default(), b"stand");
    let edge = Arc::new(edge);
    let connecting = Arc::clone(&edge);
    let (told, connected) = channel();
    std::thread::spawn(move || {
        told.send(connecting.connect_tcp("127.0.0.1:9", Framing::Raw, None))
    });
    let start = Instant::now();
    let edge = in_time("the stop comes back", move || {
        edge.stop(50);
        edge
    });
    assert!(start.elapsed() >= Duration::from_millis(50));
    let refused = connected.recv_timeout(DEADLINE).unwrap().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::NotConnected);
    // Once the handler returns, its loop ends by itself.
    drop(go_on);
    until("its loop has ended", || edge.connections() == 0);
}

#[test]
fn a_loop_that_panics_takes_only_its_own_connections_with_it() {
    let (stands, is_standing) = channel();
    let (go_on, goes_on) = channel::<()>();
    let (closes, _closed) = channel();
    let mut handler = Some(Standing {
        stands,
        go_on: goes_on,
        closes,
    });
    let config = EdgeConfig {
        loops: 2,
        ..EdgeConfig::default()
    };
    // The first loop has the handler, the second one's rows are ours.
    let edge = Edge::start_with(config, |_| {
        let handler: Box<dyn Handler> = Box::new(handler.take()?);
        Some(handler)
    });
    let edge = edge.unwrap();
    let address = edge.listen_tcp("127.0.0.1:0", Framing::Raw).unwrap();
    let mut clients: Vec<_> = (0..4).map(|_| tcp(&address)).collect();
    let mut rows = Vec::new();
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_OPEN) == 2);
    until("both have two", || edge.connections_of_loops() == [2, 2]);
    clients[0].write_all(b"die").unwrap();
    is_standing.recv_timeout(DEADLINE).unwrap();
    drop(go_on);
    assert_eq!(clients[2].read(&mut [0; 1]).unwrap_or(0), 0);
    until("it is counted", || counter(&edge, "threads_died") == 1);
    until("so are its connections", || edge.connections() == 2);
    assert_eq!(counter(&edge, "closed"), 2);
    // Told once; the other loop goes on.
    let died = loop {
        match edge.wait(50) {
            Ok(_) => assert!(edge.receive().is_empty()),
            Err(error) => break error,
        }
    };
    clients[1].write_all(b"alive").unwrap();
    rows_until(&edge, &mut rows, |rows| count(rows, 0) == 1);
    let died = died.get_ref().unwrap().downcast_ref::<ThreadDied>();
    assert_eq!(died.unwrap().thread, "edge-0");
    // New ones are the other loop's, ours too.
    clients.extend((0..3).map(|_| tcp(&address)));
    until("they are there", || edge.connections_of_loops() == [0, 5]);
    for _ in 0..2 {
        edge.connect_tcp(&address, Framing::Raw, None).unwrap();
    }
    until("both ends of both", || {
        edge.connections_of_loops() == [0, 9]
    });
    edge.stop(100);
    assert_eq!(edge.connections(), 0);
}

#[test]
fn who_waits_for_a_loop_that_panics_is_told() {
    let Stood { edge, go_on, .. } = stood(EdgeConfig::default(), b"die");
    let edge = Arc::new(edge);
    let (told, connected) = channel();
    for what in 0..2 {
        let (told, edge) = (told.clone(), Arc::clone(&edge));
        std::thread::spawn(move || match what {
            0 => told.send(edge.connect_tcp("127.0.0.1:9", Framing::Raw, None).err()),
            _ => told.send(edge.listen_udp_plain("127.0.0.1:0").err()),
        });
    }
    until("both wait", || edge.queue_bytes() > 0);
    drop(go_on);
    for _ in 0..2 {
        let error = connected.recv_timeout(DEADLINE).unwrap().unwrap();
        let died = error.get_ref().unwrap().downcast_ref::<ThreadDied>();
        assert_eq!(died.unwrap().thread, "edge-0");
    }
    let error = edge.connect_tcp("127.0.0.1:9", Framing::Raw, None);
    assert!(error.unwrap_err().to_string().contains("has died"));
}

#[test]
fn requests_for_one_connection_are_merged_and_others_cost_nothing() {
    let Stood {
        edge,
        go_on,
        closes,
        id,
        client,
        ..
    } = stood(EdgeConfig::default(), b"stand");
    assert!(edge.peer(id).is_some());
    let reason = "\u{20ac}".repeat(100_000);
    for nobody in 0..20_000 {
        edge.close(nobody, &reason);
        edge.pause(nobody << 33);
    }
    for _ in 0..20_000 {
        edge.pause(id);
        edge.resume(id);
    }
    for _ in 0..20_000 {
        edge.close(id, &reason);
        edge.pause(id);
    }
    // A packet over the bound is not even copied.
    let large = vec![0; 200 << 20];
    let header = Header {
        kind: 0,
        sequence: 0,
    };
    assert!(!edge.send_vectored(id, header, &[&large]));
    assert!(edge.queue_bytes() < 4_096, "{}", edge.queue_bytes());
    drop(go_on);
    let told = closes.recv_timeout(DEADLINE).unwrap();
    let begin = "closed by the server: ";
    assert_eq!(told, begin.to_owned() + &"\u{20ac}".repeat(41));
    drop(client);
    until("it is gone", || edge.connections() == 0);
    assert!(closes.try_recv().is_err());
}

#[test]
fn a_packet_over_the_bound_of_its_connection_closes_it_and_is_not_copied() {
    let Stood {
        edge, go_on, id, ..
    } = stood(EdgeConfig::default(), b"stand");
    let large = vec![0; 2 << 20];
    let write = Write {
        connection: id,
        kind: 0,
        sequence: 0,
        payload: &large,
    };
    assert_eq!(edge.send([write; 3]), 3);
    assert!(edge.queue_bytes() < 4_096, "{}", edge.queue_bytes());
    drop(go_on);
    until("it is closed", || edge.connections() == 0);
    assert_eq!(counter(&edge, "closed_full"), 1);
}

#[test]
fn queues_shrink_after_a_burst() {
    let config = EdgeConfig {
        max_outbound_bytes: 1 << 27,
        ..EdgeConfig::default()
    };
    let Stood {
        edge,
        mut client,
        go_on,
        stands,
        id,
        ..
    } = stood(config, b"stand");
    let piece = vec![7; 1 << 20];
    for _ in 0..40 {
        let write = Write {
            connection: id,
            kind: 0,
            sequence: 0,
            payload: &piece,
        };
        assert_eq!(edge.send([write]), 0);
    }
    assert!(edge.queue_bytes() >= 40 << 20);
    assert!(edge.outbound_bytes() >= 40 << 20);
    go_on.send(()).unwrap();
    let mut all = vec![0; 40 << 20];
    client.read_exact(&mut all).unwrap();
    assert!(all.iter().all(|byte| *byte == 7));
    until("the burst's storage is given back", || {
        edge.queue_bytes() < 8 << 20
    });
    until("nothing waits", || edge.outbound_bytes() == 0);
    drop((go_on, stands));
}

#[test]
fn what_a_client_sent_before_it_left_can_be_read_when_it_is_resumed() {
    let folder = Folder::new("left");
    let edge = Edge::start(EdgeConfig::default()).unwrap();
    let address = edge.listen_tcp("127.0.0.1:0", Framing::Raw).unwrap();
    let path = folder.path().join("left.sock");
    edge.listen_unix(&path, Framing::Raw).unwrap();
    let mut rows = Vec::new();
    let mut stream = tcp(&address);
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_OPEN) == 1);
    pause(&edge, rows[0].0, &mut stream);
    stream.write_all(b"by TCP").unwrap();
    let mut local = UnixStream::connect(&path).unwrap();
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_OPEN) == 2);
    pause(&edge, rows[1].0, &mut local);
    local.write_all(b"by Unix").unwrap();
    drop((stream, local));
    // Longer than the ends need to be seen.
    std::thread::sleep(Duration::from_millis(200));
    assert!(edge.receive().is_empty());
    edge.resume(rows[0].0);
    edge.resume(rows[1].0);
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_CLOSE) == 2);
    for (id, sent) in [(rows[0].0, &b"by TCP"[..]), (rows[1].0, b"by Unix")] {
        let of: Vec<_> = rows.iter().filter(|row| row.0 == id).collect();
        assert_eq!((of[1].1, &of[1].2[..]), (0, sent));
        assert_eq!(of[2].1, KIND_CLOSE);
    }
}

#[test]
fn a_paused_connection_whose_client_left_ends_when_nobody_resumes_it() {
    let folder = Folder::new("left-for-good");
    let config = EdgeConfig {
        idle_ms: 2_000,
        ..EdgeConfig::default()
    };
    let edge = Edge::start(config).unwrap();
    let address = edge.listen_tcp("127.0.0.1:0", Framing::Raw).unwrap();
    let path = folder.path().join("left.sock");
    edge.listen_unix(&path, Framing::Raw).unwrap();
    let mut rows = Vec::new();
    let (mut stream, mut local) = (tcp(&address), UnixStream::connect(&path).unwrap());
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_OPEN) == 2);
    let tcp_is_first = edge.peer(rows[0].0).unwrap().contains(':');
    let (first, second) = if tcp_is_first { (0, 1) } else { (1, 0) };
    pause(&edge, rows[first].0, &mut stream);
    pause(&edge, rows[second].0, &mut local);
    stream.write_all(b"unread").unwrap();
    drop((stream, local));
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_CLOSE) == 2);
    assert_eq!(reasons(&rows), ["closed by the client"; 2]);
    until("nothing is left", || edge.connections() == 0);
}

/// Asked in the ways of a consumer that is not a handler.
#[test]
fn a_half_closed_client_is_answered_by_a_consumer() {
    let edge = Edge::start(EdgeConfig::default()).unwrap();
    let address = edge.listen_tcp("127.0.0.1:0", Framing::Raw).unwrap();
    let mut client = tcp(&address);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut rows = Vec::new();
    // The close row is there, and the answer is taken all the same.
    while count(&rows, KIND_CLOSE) == 0 {
        assert!(edge.wait(5_000).unwrap());
        let batch = edge.receive();
        for row in 0..batch.len() {
            rows.push((batch.connection[row], batch.kind[row], Vec::new()));
        }
    }
    let write = |payload| Write {
        connection: rows[0].0,
        kind: 0,
        sequence: 0,
        payload,
    };
    assert_eq!(edge.send([write(b"an "), write(b"answer")]), 0);
    // It says that this was all.
    edge.end_handling();
    let mut back = String::new();
    client.read_to_string(&mut back).unwrap();
    assert_eq!(back, "an answer");
    until("it is gone", || edge.connections() == 0);
    assert_eq!(edge.send([write(b"too late")]), 1);
    // One who says nothing is believed for a bounded time.
    let mut client = tcp(&address);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    until("it is gone, too", || edge.connections() == 0);
}

#[test]
fn ends_and_answers_of_many_meet_all_their_clients() {
    let kept = Mutex::new(Vec::new());
    with_echo(EdgeConfig::default(), Way::OtherThread, |edge| {
        let address = edge.listen_tcp("127.0.0.1:0", Framing::Raw).unwrap();
        std::thread::scope(|scope| {
            for client in 0..4_u8 {
                let (address, kept) = (&address, &kept);
                scope.spawn(move || {
                    for round in 0..50_usize {
                        let mut stream = tcp(address);
                        let bytes = vec![client; 1 + round * 100];
                        stream.write_all(&bytes).unwrap();
                        stream.shutdown(Shutdown::Write).unwrap();
                        let mut back = Vec::new();
                        stream.read_to_end(&mut back).unwrap();
                        kept.lock().unwrap().push(back == bytes);
                    }
                });
            }
        });
        until("all are gone", || edge.connections() == 0);
        assert_eq!(edge.outbound_bytes(), 0);
    });
    let kept = kept.into_inner().unwrap();
    assert_eq!((kept.len(), kept.iter().all(|whole| *whole)), (200, true));
}

/// Has the edge that it serves, and does what only others should.
struct Inside {
    edge: Arc<OnceLock<Edge>>,
    told: Sender<std::io::ErrorKind>,
}

impl Handler for Inside {
    fn traffic(&mut self, _connection: u64, _header: Header, _payload: &[u8], _out: &mut Out<'_>) {
        let edge = self.edge.get().unwrap();
        let connected = edge.connect_tcp("127.0.0.1:9", Framing::Raw, None);
        let listened = edge.listen_udp_plain("127.0.0.1:0");
        for error in [connected.unwrap_err(), listened.unwrap_err()] {
            self.told.send(error.kind()).unwrap();
        }
        edge.stop(60_000);
    }
}

#[test]
fn a_handler_may_stop_its_edge_and_does_not_wait_for_itself() {
    let (told, all) = channel();
    let place = Arc::new(OnceLock::new());
    let mut handler = Some(Inside {
        edge: Arc::clone(&place),
        told,
    });
    let edge = Edge::start_with(EdgeConfig::default(), |_| Some(Box::new(handler.take()?)));
    let edge = place.get_or_init(|| edge.unwrap());
    let address = edge.listen_tcp("127.0.0.1:0", Framing::Raw).unwrap();
    let mut client = tcp(&address);
    client.write_all(b"do it").unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    drop(client);
    let seen: Vec<_> = all.iter().collect();
    assert_eq!(
        seen,
        [std::io::ErrorKind::Deadlock; 2],
        "and its loop has ended"
    );
    assert_eq!(edge.connections(), 0);
}

#[test]
fn a_close_loses_nothing_of_what_was_sent_though_its_client_talks_over_its_rate() {
    let config = EdgeConfig {
        bytes_per_s: 10_000,
        max_outbound_bytes: 1 << 24,
        ..EdgeConfig::default()
    };
    let edge = Edge::start(config).unwrap();
    let address = edge.listen_tcp("127.0.0.1:0", Framing::Raw).unwrap();
    let mut client = tcp(&address);
    let mut rows = Vec::new();
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_OPEN) == 1);
    let payload = vec![1; 1 << 20];
    let write = Write {
        connection: rows[0].0,
        kind: 0,
        sequence: 0,
        payload: &payload,
    };
    assert_eq!(edge.send([write; 8]), 0);
    edge.close(rows[0].0, "done");
    rows_until(&edge, &mut rows, |rows| count(rows, KIND_CLOSE) == 1);
    let before = counter(&edge, "bytes_in");
    client.write_all(&[7; 30_000]).unwrap();
    until("it was read", || {
        counter(&edge, "bytes_in") >= before + 30_000
    });
    assert_eq!(counter(&edge, "throttled"), 0);
    drop(client);
}
