//! The mailbox's log: where its records are, and the operations in them.

use std::sync::Arc;

use zmqgame_core::bus::message::{Content, MessageId};
use zmqgame_core::bus::store::{RosterEntry, StoreOp};
use zmqgame_store::journal::{HEAD_BYTES, LOG_ALIGN, MAGIC, look_through};
use zmqgame_store::record::{decode, encode};

use crate::Target;
use crate::split::{Steps, push_step};

pub const MAILBOX_LOG: Target = Target {
    name: "mailbox_log",
    body: mailbox_log,
    seeds,
    per_byte: 512,
    fixed: 64 << 10,
};

/// What is wrong with a record that is written; 0 in all of these: nothing.
const SYNCED: u8 = 1;
const SKIPS: u8 = 2;
const OLD: u8 = 4;
const TURNED: u8 = 8;
const TORN: u8 = 16;

struct Written {
    whole: bool,
    number: u64,
    synced: bool,
}

/// Steps are records. What is found are those before the first that does not count, and whatever an
/// operation is read as, it is written so that it is read as the same.
fn mailbox_log(data: &[u8]) {
    operations(data);
    let word = data
        .first_chunk::<8>()
        .map_or(0, |chunk| u64::from_le_bytes(*chunk));
    let _ = look_through(data, word);
    // Of all bytes, so that none of them can hold it.
    let salt = data.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let (mut log, mut written) = (Vec::new(), Vec::new());
    for (what, body) in Steps(data) {
        let number = written.len() as u64 + 1;
        written.push(write(&mut log, salt, number, what, body));
        if what & TORN != 0 {
            break;
        }
    }
    let found = look_through(&log, salt);
    let counts =
        |(index, record): &(usize, &Written)| record.whole && record.number == *index as u64 + 1;
    let good = written.iter().enumerate().take_while(counts).count();
    assert_eq!(found.records.len(), good);
    let behind = written[good..]
        .iter()
        .filter(|record| record.whole && record.synced && record.number > good as u64);
    assert_eq!(found.behind, behind.count());
    assert_eq!(found.end % LOG_ALIGN, 0);
    for (index, (record, (_, body))) in found.records.iter().zip(Steps(data)).enumerate() {
        assert_eq!((record.unix_ms, record.body), (index as u64 + 1, body));
        operations(record.body);
    }
}

/// A record as the format says, spoiled as `what` says.
fn write(log: &mut Vec<u8>, salt: u64, number: u64, what: u8, body: &[u8]) -> Written {
    let has = |flag: u8| what & flag != 0;
    let said = number + if has(SKIPS) { 7 } else { 0 };
    let salt = if has(OLD) { salt ^ 1 } else { salt };
    let start = log.len();
    log.extend(MAGIC.to_le_bytes());
    log.extend((body.len() as u32).to_le_bytes());
    log.extend(salt.to_le_bytes());
    log.extend((said as u32).to_le_bytes());
    log.extend(number.to_le_bytes());
    log.extend(u32::from(has(SYNCED)).to_le_bytes());
    log.extend([0; 4]);
    let mut sum = crc32fast::Hasher::new();
    sum.update(&log[start..]);
    sum.update(body);
    log.extend(sum.finalize().to_le_bytes());
    assert_eq!(log.len() - start, HEAD_BYTES);
    log.extend(body);
    if has(TURNED) {
        let at = usize::from(what >> 5) * 37 % (log.len() - start);
        log[start + at] ^= 0x10;
    }
    if has(TORN) {
        log.truncate(start + HEAD_BYTES - 1 + body.len() / 2);
    } else {
        log.resize(log.len().next_multiple_of(LOG_ALIGN), 0);
    }
    Written {
        whole: !has(OLD) && !has(TURNED) && !has(TORN),
        number: said,
        synced: has(SYNCED),
    }
}

fn operations(body: &[u8]) {
    let Some(ops) = decode(body) else {
        return;
    };
    let mut again = Vec::new();
    assert!(ops.iter().all(|op| encode(&mut again, op)));
    assert_eq!(decode(&again), Some(ops));
}

/// One of each.
fn one_of_each() -> Vec<StoreOp> {
    let text = |text: &str| -> Arc<str> { text.into() };
    let id = MessageId {
        node_key: u64::MAX,
        epoch: 2,
        seq: 3,
    };
    let (player, payload): (_, Arc<[u8]>) = (text("zo\u{eb}"), [1, 2, 3][..].into());
    vec![
        StoreOp::Append {
            player: player.clone(),
            id,
            deadline_ms: 5,
            content: Content::Json,
            payload: payload.clone(),
            first: false,
        },
        StoreOp::Defer {
            player: player.clone(),
            id,
            deliver_at_ms: 4,
            deadline_ms: 0,
            content: Content::Text,
            payload,
            first: false,
        },
        StoreOp::Due {
            unix_ms: 8,
            limit: 9,
        },
        StoreOp::Settle {
            player: player.clone(),
            up_to: u64::MAX,
        },
        StoreOp::Logout {
            player: player.clone(),
            cursor: vec![id, id],
        },
        StoreOp::Trim {
            player: player.clone(),
            sender: 1,
            epoch: 2,
            seq: 3,
        },
        StoreOp::Know {
            player: player.clone(),
        },
        StoreOp::Join {
            group: text("g"),
            player: player.clone(),
        },
        StoreOp::Leave {
            group: text("g"),
            player,
        },
        StoreOp::Roster {
            entry: RosterEntry {
                node_key: 7,
                name: text("game-1"),
                epoch: 9,
                linked: true,
            },
        },
    ]
}

fn seeds() -> Vec<Vec<u8>> {
    let bodies: Vec<Vec<u8>> = one_of_each()
        .iter()
        .map(|op| {
            let mut body = Vec::new();
            assert!(encode(&mut body, op), "it is recorded");
            body
        })
        .collect();
    let all = bodies.concat();
    assert_eq!(decode(&all), Some(one_of_each()));
    assert_eq!(decode(&all[..all.len() - 1]), None, "it is cut");
    let log = |steps: &[(u8, &[u8])]| {
        let mut seed = Vec::new();
        for (what, body) in steps {
            push_step(&mut seed, *what, body);
        }
        seed
    };
    let mut seeds = vec![
        all.clone(),
        log(&[(SYNCED, &all), (SYNCED, &[7; 473]), (SYNCED, b"")]),
        log(&[(0, &bodies[0]), (TORN, &all)]),
        log(&[
            (SYNCED, &bodies[2]),
            (SYNCED | TURNED, &all),
            (SYNCED, &bodies[3]),
        ]),
        log(&[
            (SYNCED, b""),
            (SYNCED | OLD, b""),
            (SYNCED | SKIPS, &[1; 700]),
        ]),
        log(&[
            (SYNCED | SKIPS, &all),
            (0, &all),
            (SYNCED | TURNED | 0xe0, &all),
        ]),
    ];
    seeds.extend(bodies);
    seeds
}
