//! Many threads send and close, several clients come and go meanwhile: nobody gets what is another's, what
//! comes is whole and in its sender's order, every open has its close, and nothing is left.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use zmqgame_core::stream::packet::{KIND_CLOSE, KIND_OPEN};
use zmqgame_reactor::edge::config::{EdgeConfig, Framing};
use zmqgame_reactor::edge::{Edge, Write};

use crate::clients::{Random, tcp};
use crate::common::{Row, count, counter, rows_until, until};
use crate::life::reset;

const SENDERS: u64 = 3;
const CLIENTS: u64 = 4;
/// Lives of each client.
const LIVES: u64 = 40;
/// Connections that are gone and that the senders still think of.
const REMEMBERED: usize = 6;
/// Sender, sequence, connection.
const PACKET_BYTES: usize = 24;

/// Whom the senders know.
#[derive(Default)]
struct Known(Mutex<(Vec<u64>, Vec<u64>)>);

impl Known {
    fn add(&self, id: u64) {
        self.0.lock().unwrap().0.push(id);
    }

    fn end(&self, id: u64) {
        let (live, gone) = &mut *self.0.lock().unwrap();
        live.retain(|known| *known != id);
        gone.insert(0, id);
        gone.truncate(REMEMBERED);
    }

    fn choose(&self, random: &mut Random) -> Option<u64> {
        let (live, gone) = &*self.0.lock().unwrap();
        let all = live.len() + gone.len();
        let at = (all > 0).then(|| random.below(all))?;
        live.iter().chain(gone).nth(at).copied()
    }
}

/// Sends to whom it knows, and closes one now and then.
fn send(edge: &Edge, known: &Known, sender: u64, over: &AtomicBool, asked: &AtomicU64) {
    let mut random = Random::new(sender + 1);
    let mut sequence = 0;
    while !over.load(Ordering::Acquire) {
        // The clients have to get their turn, on any machine.
        std::thread::sleep(Duration::from_micros(200));
        let Some(connection) = known.choose(&mut random) else {
            continue;
        };
        let few = 1 + random.below(8) as u64;
        let payloads: Vec<_> = (sequence..sequence + few)
            .map(|sequence| {
                [sender, sequence, connection]
                    .map(u64::to_le_bytes)
                    .concat()
            })
            .collect();
        edge.send(payloads.iter().map(|payload| Write {
            connection,
            kind: 0,
            sequence: 0,
            payload,
        }));
        sequence += few;
        asked.fetch_add(few, Ordering::Relaxed);
        if random.below(20) == 0 {
            edge.close(connection, "by a sender");
        }
    }
}

/// Reads packets until the end or `most`, and looks at each.
fn read_some(stream: &mut TcpStream, most: usize) {
    let (mut id, mut last) = (None, [None; SENDERS as usize]);
    for _ in 0..most {
        let mut packet = [0; PACKET_BYTES];
        if let Err(error) = stream.read_exact(&mut packet) {
            // Closed by a sender, or cut off.
            let gone = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
            assert!(gone.contains(&error.kind()), "{error}");
            return;
        }
        let number = |at: usize| u64::from_le_bytes(packet[at..at + 8].try_into().unwrap());
        let (sender, sequence) = (number(0) as usize, number(8));
        assert_eq!(*id.get_or_insert(number(16)), number(16));
        assert!(
            last[sender] < Some(sequence),
            "{:?} {sequence}",
            last[sender]
        );
        last[sender] = Some(sequence);
    }
}

fn live(address: &str, client: u64) {
    let mut random = Random::new(100 + client);
    for life in 0..LIVES {
        let mut stream = tcp(address);
        // It may be closed already.
        let _ = stream.write_all(&life.to_le_bytes());
        let most = random.below(30);
        read_some(&mut stream, most);
        match random.below(4) {
            0 => reset(stream),
            1 => {
                // Closed by a sender it is half gone already.
                let _ = stream.shutdown(Shutdown::Write);
                read_some(&mut stream, usize::MAX);
            }
            _ => drop(stream),
        }
    }
}

fn take_rows(edge: &Edge, known: &Known, rows: &mut Vec<Row>, lives: usize) {
    let mut seen = 0;
    while count(rows, KIND_CLOSE) < lives {
        let before = rows.len();
        rows_until(edge, rows, |rows| rows.len() > before);
        for (connection, kind, _) in &rows[seen..] {
            match *kind {
                KIND_OPEN => known.add(*connection),
                KIND_CLOSE => known.end(*connection),
                _ => {}
            }
        }
        seen = rows.len();
    }
}

#[test]
fn many_threads_send_and_close_while_clients_come_and_go() {
    let config = EdgeConfig {
        loops: 2,
        ..EdgeConfig::default()
    };
    let edge = Edge::start(config).unwrap();
    let address = edge.listen_tcp("127.0.0.1:0", Framing::Raw).unwrap();
    let (known, over, asked) = (Known::default(), AtomicBool::new(false), AtomicU64::new(0));
    let mut rows = Vec::new();
    std::thread::scope(|scope| {
        let (edge, known, over, asked, address) = (&edge, &known, &over, &asked, &address);
        for sender in 0..SENDERS {
            scope.spawn(move || send(edge, known, sender, over, asked));
        }
        for client in 0..CLIENTS {
            scope.spawn(move || live(address, client));
        }
        take_rows(edge, known, &mut rows, (CLIENTS * LIVES) as usize);
        over.store(true, Ordering::Release);
    });
    let mut lives: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (connection, kind, _) in &rows {
        lives.entry(*connection).or_default().push(*kind);
    }
    assert_eq!(lives.len() as u64, CLIENTS * LIVES);
    for life in lives.values() {
        let ([KIND_OPEN, KIND_CLOSE] | [KIND_OPEN, 0, KIND_CLOSE]) = life[..] else {
            panic!("{life:?}");
        };
    }
    until("all gone", || edge.connections() == 0);
    until("nothing waits", || edge.outbound_bytes() == 0);
    assert_eq!(edge.memory_bytes(), 0);
    assert_eq!(edge.connections_of_loops(), [0, 0]);
    // Each packet was taken or refused, and both happened.
    let taken = counter(&edge, "packets_out");
    let refused = counter(&edge, "refused_closed") + counter(&edge, "refused_full");
    assert_eq!(taken + refused, asked.load(Ordering::Relaxed));
    assert!(taken > 0 && refused > 0, "{taken} {refused}");
}
