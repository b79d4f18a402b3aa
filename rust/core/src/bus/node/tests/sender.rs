//! The window of unreceipted messages: what is written, written again, and receipted.

use super::*;

#[test]
fn resend_goes_before_new() {
    let mut script = Script::up();
    script.send("p", "m1");
    script.send("q", "m2");
    assert_eq!(script.written(), ["send 1 low 1 p m1", "send 2 low 1 q m2"]);
    script.node.handle_disconnected(script.now, 0, "hub killed");
    script.send("p", "m3");
    script.connect();
    script.welcome(2);
    let expected = [
        "register last",
        "again send 1 low 1 p m1",
        "again send 2 low 1 q m2",
        "send 3 low 1 p m3",
    ];
    assert_eq!(script.written(), expected);
}

#[test]
fn receipt_lost_with_sender_link() {
    let mut script = Script::up();
    script.send("p", "m1");
    script.send("p", "m2");
    script.written();
    for _ in 0..100 {
        script.relink();
        assert_eq!(
            script.written(),
            [
                "register last",
                "again send 1 low 1 p m1",
                "again send 2 low 1 p m2"
            ]
        );
    }
    script.receipt(2, Outcome::Stored);
    script.receipt(1, Outcome::Delivered);
    script.receipt(1, Outcome::Stored); // of an earlier resend: ignored
    assert_eq!(
        script.receipts(),
        [(2, Outcome::Stored), (1, Outcome::Delivered)]
    );
    script.relink();
    assert_eq!(script.written(), ["register last"]);
}

#[test]
fn low_is_the_smallest_without_final_receipt() {
    let mut script = Script::up();
    for payload in ["a", "b", "c"] {
        script.send("p", payload);
    }
    script.written();
    script.receipt(1, Outcome::Refused);
    script.receipt(3, Outcome::Stored);
    assert_eq!(script.send("p", "d"), 4);
    assert_eq!(script.written(), ["send 4 low 2 p d"]);
    script.receipt(2, Outcome::Stored);
    script.receipt(4, Outcome::Stored);
    script.node.handle_close();
    assert_eq!(script.written(), ["bye 5"]);
}

#[test]
fn no_goodbye_while_something_may_have_to_be_sent_again() {
    let mut script = Script::up();
    script.send("p", "a");
    script.written();
    script.node.handle_close();
    assert_eq!(script.written(), Vec::<String>::new());
}

#[test]
fn busy_holds_back_every_later_one_to_that_player() {
    let mut script = Script::up();
    for (player, payload) in [("p", "1"), ("q", "2"), ("p", "3")] {
        script.send(player, payload);
    }
    script.written();
    script.receipt(1, Outcome::Busy);
    script.send("p", "4");
    script.send("q", "5");
    assert_eq!(script.written(), ["send 5 low 1 q 5"]);
    script.receipt(3, Outcome::Busy);
    script.receipt(2, Outcome::Stored);
    script.receipt(5, Outcome::Stored);
    script.now = script.node.poll_timeout().unwrap();
    script.node.handle_timeout(script.now, 0);
    let again = [
        "again send 1 low 1 p 1",
        "again send 3 low 1 p 3",
        "send 4 low 1 p 4",
    ];
    assert_eq!(script.written(), again);
    let first_wait = script.now;
    script.receipt(1, Outcome::Busy);
    let second_wait = script.node.poll_timeout().unwrap();
    assert!(
        second_wait - first_wait > first_wait,
        "the wait doubles: {first_wait} {second_wait}"
    );
    assert_eq!(
        script.receipts(),
        [(2, Outcome::Stored), (5, Outcome::Stored)]
    );
}

#[test]
fn group_resend_after_half_the_acks() {
    let mut script = Script::up();
    script
        .node
        .send(Recipient::Group("g".into()), Content::Text, b"m", None)
        .unwrap();
    script.written();
    let part = |entries: &[(&'static str, Outcome)], last: bool, script: &mut Script| {
        let entries: Vec<ReportEntry<'_>> = entries
            .iter()
            .map(|&(player, outcome)| ReportEntry {
                player,
                outcome,
                detail: "",
            })
            .collect();
        let mut counts = [0; 8];
        if last {
            entries
                .iter()
                .for_each(|entry| counts[entry.outcome as usize - 1] += 1);
        }
        let entries = List::Items(&entries);
        script.hub(&[Message::GroupReport(GroupReport {
            seq: 1,
            last,
            wide: true,
            counts,
            omitted: 0,
            entries,
        })]);
    };
    part(&[("a", Outcome::Delivered)], false, &mut script);
    script.relink();
    assert_eq!(
        script.written(),
        ["register last", "again send 1 low 1 g m"]
    );
    part(
        &[("a", Outcome::Stored), ("b", Outcome::Delivered)],
        true,
        &mut script,
    );
    let Some(NodeEvent::Report { seq: 1, report }) = script.events.pop() else {
        panic!("{:?}", script.events)
    };
    assert_eq!(report.counts, [2, 0, 0, 0, 0, 0, 0, 0]);
    let players: Vec<_> = report
        .players
        .iter()
        .map(|entry| (entry.player.to_owned(), entry.outcome))
        .collect();
    assert_eq!(
        players,
        [
            ("a".to_owned(), Outcome::Delivered),
            ("b".to_owned(), Outcome::Delivered)
        ]
    );
}

#[test]
fn a_full_window_says_so_and_opens_with_receipts() {
    let mut script = Script::up();
    for _ in 0..100 {
        script.send("p", "m");
    }
    let more = script
        .node
        .send(Recipient::Player("p".into()), Content::Text, b"m", None);
    assert_eq!(more, Err(NodeError::Full));
    script.receipt(50, Outcome::Stored);
    script.send("p", "m");
}

#[test]
fn bad_names_and_sizes_never_enter_the_window() {
    let mut script = Script::up();
    for (player, payload) in [("", 1), ("a\nb", 1), ("ok", 1_001)] {
        let sent = script.node.send(
            Recipient::Player(player.into()),
            Content::Text,
            &vec![0; payload],
            None,
        );
        assert!(
            matches!(sent, Err(NodeError::Wire(_))),
            "{player:?} {payload}"
        );
    }
    assert_eq!(script.node.unreceipted(), 0);
}

#[test]
fn a_message_is_repeated_under_its_own_id_and_marked_so() {
    let mut script = Script::up();
    script
        .node
        .send(Recipient::Player("p".into()), Content::Text, b"m", Some(9))
        .unwrap();
    assert_eq!(script.written(), ["again send 9 low 9 p m"]);
    let lower = script
        .node
        .send(Recipient::Player("p".into()), Content::Text, b"m", Some(8));
    assert_eq!(lower, Err(NodeError::SeqUsed));
    assert_eq!(script.send("p", "n"), 10);
}
