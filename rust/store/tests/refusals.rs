//! What the quota refuses, and what it must not (BUS.md rule 35).

use std::sync::Arc;
use zmqgame_core::bus::message::{Content, MessageId};
use zmqgame_core::bus::store::{StoreDone, StoreOp};
use zmqgame_store::{Options, Steps, Store};

fn append(seq: u64, first: bool) -> StoreOp {
    StoreOp::Append {
        player: "p".into(),
        id: MessageId {
            node_key: 7,
            epoch: 1,
            seq,
        },
        deadline_ms: 0,
        content: Content::Bytes,
        payload: Arc::from(&b"payload"[..]),
        first,
    }
}

/// It is stored already; only what is new would be in before the refused one.
#[test]
fn a_repeat_behind_a_refused_message_is_not_refused() {
    let folder = std::env::temp_dir().join(format!("zmqgame-refusals-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let options = Options {
        path: folder.join("mailbox.db"),
        power_loss: false,
        max_bytes: 1 << 20,
        player_messages: 1,
        player_bytes: 1 << 10,
        steps: Steps::default(),
    };
    let mut store = Store::open(options).unwrap();
    let open = StoreOp::Open {
        hub_epoch: 1,
        unix_ms: 0,
    };
    let know = StoreOp::Know { player: "p".into() };
    store.run(&[open], 0).unwrap();
    store.run(&[know, append(1, true)], 0).unwrap();
    let batch = [append(2, true), append(1, false), append(3, false)];
    let done = store.run(&batch, 0).unwrap();
    let refused = StoreDone::OverQuota {
        messages: 1,
        bytes: 7,
    };
    assert_eq!(done, [refused.clone(), StoreDone::Appended, refused]);
    drop(store);
    std::fs::remove_dir_all(&folder).unwrap();
}
