//! What version 2 of the protocol added, from the node's side; and that none of it goes to a hub of version 1.

use super::*;
use crate::bus::message::POLICY_SEQ;
use crate::bus::node::sender::SendOptions;

const DROPPABLE: SendOptions<'_> = SendOptions {
    policy: Policy::Droppable,
    key: "",
    deadline_ms: 0,
    deliver_at_ms: 0,
    trace: false,
    quiet: false,
    repeat: None,
};

impl Script {
    fn send_with(&mut self, text: &str, options: &SendOptions<'_>) -> Result<u64, NodeError> {
        let to = Recipient::Player("p".into());
        let sent = self
            .node
            .send_with(to, Content::Text, text.as_bytes(), options);
        self.take();
        sent
    }

    /// What became of which messages, policies' bit left out.
    fn ends(&mut self) -> Vec<(u64, String)> {
        let ends = self.events.drain(..).filter_map(|event| match event {
            NodeEvent::Receipt {
                seq,
                outcome,
                detail,
            } => Some((seq & !POLICY_SEQ, format!("{outcome:?} {detail}"))),
            NodeEvent::Unknown { seq, .. } => Some((seq & !POLICY_SEQ, "Unknown".into())),
            _ => None,
        });
        ends.collect()
    }
}

#[test]
fn policies_count_on_their_own_and_keep_their_place() {
    let mut script = Script::up();
    let latest = SendOptions {
        policy: Policy::Latest,
        key: "hp",
        trace: true,
        ..SendOptions::default()
    };
    script.send("p", "one");
    let loose = script.send_with("two", &DROPPABLE).unwrap();
    script.send("p", "three");
    script.send_with("four", &latest).unwrap();
    assert_eq!(
        script.written(),
        [
            "send 1 low 1 p one",
            "send 1 low 1 p two droppable",
            "send 2 low 1 p three",
            "send 2 low 1 p four latest hp trace",
        ]
    );
    assert_eq!(loose, POLICY_SEQ | 1);
    script.receipt(loose, Outcome::Sent);
    script.receipt(loose + 1, Outcome::Dropped);
    script.receipt(loose, Outcome::Sent); // only once
    assert_eq!(
        script.ends(),
        [(1, "Sent ".to_owned()), (2, "Dropped ".to_owned())]
    );
    // Never sent again: only what must be delivered is.
    script.relink();
    let again = script.written();
    assert_eq!(
        again[1..],
        ["again send 1 low 1 p one", "again send 2 low 1 p three"]
    );
}

#[test]
fn policies_need_a_link_that_knows_them_and_a_lost_one_tells_what_is_known() {
    let mut script = Script::up();
    script.send_with("written", &DROPPABLE).unwrap();
    assert_eq!(script.written().len(), 1);
    script.send_with("waiting", &DROPPABLE).unwrap();
    let quiet = SendOptions {
        quiet: true,
        ..DROPPABLE
    };
    script.send_with("quiet", &quiet).unwrap();
    script.node.handle_disconnected(script.now, 0, "cut");
    script.send_with("no link", &DROPPABLE).unwrap();
    script.take();
    assert_eq!(
        script.ends(),
        [
            (1, "Unknown".to_owned()),
            (2, "Dropped the link was lost".to_owned()),
            (4, "Dropped no link to the hub".to_owned()),
        ]
    );
    script.connect();
    script.welcome_as(1, 1, 0);
    script.written();
    script.send_with("old hub", &DROPPABLE).unwrap();
    assert_eq!(
        script.ends(),
        [(5, "Dropped not supported: policy".to_owned())]
    );
    assert!(script.written().is_empty());
}

#[test]
fn what_waits_for_the_socket_is_bounded_and_the_rest_is_dropped() {
    let mut script = Script::up();
    let payload = "x".repeat(1_000);
    let mut taken = 0;
    while script.events.is_empty() {
        script.send_with(&payload, &DROPPABLE).unwrap();
        taken += 1;
    }
    assert!(taken > 1_000 && taken * 1_000 <= limits::LOOSE_BYTES + 1_000);
    let ends = script.ends();
    assert!(ends[0].1.starts_with("Dropped too many"), "{ends:?}");
}

#[test]
fn deadlines_and_deferred_sends_go_out_and_come_again_as_they_are() {
    let mut script = Script::up();
    let until = SendOptions {
        deadline_ms: 900,
        trace: true,
        ..SendOptions::default()
    };
    let later = SendOptions {
        deadline_ms: 900,
        deliver_at_ms: 800,
        ..SendOptions::default()
    };
    script.send_with("one", &until).unwrap();
    script.send_with("two", &later).unwrap();
    let first = [
        "send 1 low 1 p one until 900 trace",
        "send 2 low 1 p two until 900 at 800",
    ];
    assert_eq!(script.written(), first);
    script.relink();
    let again: Vec<String> = first.iter().map(|word| format!("again {word}")).collect();
    assert_eq!(script.written()[1..], again);
    script.receipt(1, Outcome::Expired);
    script.receipt(2, Outcome::Stored);
    assert_eq!(
        script.ends(),
        [(1, "Expired ".to_owned()), (2, "Stored ".to_owned())]
    );
    assert!(script.node.unreceipted() == 0);
}

#[test]
fn a_hub_of_version_1_gets_nothing_new() {
    let mut script = Script::new();
    script.connect();
    script.welcome_as(1, 1, features::ALL); // features are not in a welcome of version 1
    script.written();
    script.events.clear();
    for options in [
        SendOptions {
            deadline_ms: 900,
            ..SendOptions::default()
        },
        SendOptions {
            deliver_at_ms: 800,
            ..SendOptions::default()
        },
        SendOptions {
            trace: true,
            ..SendOptions::default()
        },
    ] {
        script.send_with("x", &options).unwrap();
    }
    assert_eq!(script.written(), ["send 3 low 1 p x"]);
    script.take();
    assert_eq!(
        script.ends(),
        [
            (2, "Refused not supported: deferred".to_owned()),
            (1, "Refused not supported: deadline".to_owned())
        ]
    );
    assert_eq!(script.node.unreceipted(), 1);
    assert_eq!(script.node.hub(), Some((1, 0)));
}

#[test]
fn what_went_out_before_is_unknown_where_an_older_hub_has_no_words_for_it() {
    let mut script = Script::up();
    let until = SendOptions {
        deadline_ms: 900,
        ..SendOptions::default()
    };
    script.send_with("out", &until).unwrap();
    assert_eq!(script.written(), ["send 1 low 1 p out until 900"]);
    script.node.handle_disconnected(script.now, 0, "cut");
    script.connect();
    script.welcome_as(1, 1, 0);
    script.send_with("not out", &until).unwrap();
    let written = script.written();
    assert!(
        !written.iter().any(|word| word.contains("send")),
        "{written:?}"
    );
    script.take();
    let mut ends = script.ends();
    ends.sort();
    let expected = [
        (1, "Unknown".to_owned()),
        (2, "Refused not supported: deadline".to_owned()),
    ];
    assert_eq!(ends, expected);
    assert_eq!(script.node.unreceipted(), 0);
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    let mut script = Script::up();
    for options in [
        SendOptions {
            deliver_at_ms: 5,
            ..DROPPABLE
        },
        SendOptions {
            repeat: Some(9),
            ..DROPPABLE
        },
        SendOptions {
            key: "k",
            ..DROPPABLE
        },
        SendOptions {
            quiet: true,
            ..SendOptions::default()
        },
    ] {
        assert_eq!(script.send_with("x", &options), Err(NodeError::Options));
    }
    let later = SendOptions {
        deliver_at_ms: 5,
        ..SendOptions::default()
    };
    let to = Recipient::Group("g".into());
    let sent = script.node.send_with(to, Content::Text, b"x", &later);
    assert_eq!(sent, Err(NodeError::Options));
    let repeat = SendOptions {
        repeat: Some(POLICY_SEQ),
        ..SendOptions::default()
    };
    assert_eq!(script.send_with("x", &repeat), Err(NodeError::SeqUsed));
}

#[test]
fn a_delivery_without_number_is_shown_at_once_and_moves_nothing() {
    let mut script = Script::up();
    script.host("p", 1, 7, &[]);
    let loose = id(9, POLICY_SEQ | 4);
    let deliver = |script: &mut Script| {
        script.hub(&[Message::Deliver(Deliver {
            id: loose,
            policy: Policy::Droppable,
            trace: false,
            content: Content::Bytes,
            targets: List::Items(&[Number {
                binding: 7,
                number: 0,
            }]),
            payload: b"hp",
        })]);
    };
    deliver(&mut script);
    deliver(&mut script); // no dedupe either: the sender never sends it again
    assert_eq!(script.shown().len(), 2);
    script.node.handled("p", loose);
    assert!(script.written().is_empty());
    script.deliver(7, 1, id(9, 5));
    assert_eq!(script.shown(), [("p".to_owned(), 5)]);
    // Nor does a client's word put it into the cursor.
    let cursor = Cursor::from_iter([loose, id(9, 5)]);
    assert_eq!(cursor.marks().collect::<Vec<_>>(), [id(9, 5)]);
    script.node.detach(script.now, "p");
    deliver(&mut script);
    assert!(script.shown().is_empty());
}

/// A group send that comes again to a player who joined late, behind a later one that the client has and did not handle yet.
#[test]
fn seen_names_what_a_later_one_has_jumped() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.deliver(21, 1, id(1, 2));
    script.deliver(21, 2, id(1, 1));
    script.deliver(21, 3, id(1, 2)); // In the mailbox too: it was shown, and is not seen.
    assert_eq!(script.shown(), [("p".into(), 2)]);
    script.node.handled("p", id(1, 2));
    assert_eq!(script.written(), ["seen 21:2", "ack 21:3"]);
}

#[test]
fn seen_goes_out_before_the_ack_that_covers_it() {
    let mut script = Script::up();
    script.host("p", 1, 7, &[]);
    script.deliver(7, 1, id(9, 5));
    script.node.handled("p", id(9, 5));
    assert_eq!(script.written(), ["ack 7:1"]);
    script.deliver(7, 2, id(9, 5));
    script.deliver(7, 3, id(9, 4));
    assert_eq!(script.written(), ["seen 7:2 7:3", "ack 7:3"]);
    let mut old = Script::new();
    old.connect();
    old.welcome_as(1, 1, 0);
    old.written();
    old.host("p", 1, 7, &[]);
    old.deliver(7, 1, id(9, 5));
    old.node.handled("p", id(9, 5));
    old.deliver(7, 2, id(9, 5));
    assert_eq!(old.written(), ["ack 7:2"]);
}
