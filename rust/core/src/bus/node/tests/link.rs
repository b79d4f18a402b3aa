//! The link itself: welcomes, refusals, silence, and bytes that make no sense.

use super::*;
use proptest::prelude::*;

#[test]
fn a_welcome_below_the_highest_hub_epoch_is_refused() {
    let mut script = Script::new();
    script.connect();
    script.welcome(7);
    script.node.handle_disconnected(script.now, 0, "cut");
    script.connect();
    script.welcome(6);
    assert!(!script.node.is_up());
    script.connect();
    script.welcome(7);
    assert!(script.node.is_up());
}

#[test]
fn refusals_that_no_retry_mends_end_the_node() {
    for code in [
        ErrorCode::OldEpoch,
        ErrorCode::NameTaken,
        ErrorCode::NotAllowed,
        ErrorCode::Version,
    ] {
        let mut script = Script::new();
        script.connect();
        script.hub(&[Message::Error { code, text: "no" }]);
        assert!(script.events.contains(&NodeEvent::Refused {
            code: code as u16,
            text: "no".into()
        }));
        assert_eq!(script.node.poll_timeout(), None);
        let sent = script
            .node
            .send(Recipient::Player("p".into()), Content::Text, b"m", None);
        assert_eq!(sent, Err(NodeError::Ended));
    }
}

#[test]
fn a_silent_hub_is_pinged_then_given_up() {
    let mut script = Script::up();
    let mut pings = 0;
    while script.node.is_up() {
        script.now = script.node.poll_timeout().unwrap();
        script.node.handle_timeout(script.now, 0);
        pings += script
            .written()
            .iter()
            .filter(|word| word.starts_with("ping"))
            .count();
    }
    assert_eq!((script.now, pings), (3_000, 2));
    script.connect();
    script.hub(&[Message::Ping { nonce: 5, low: 0 }]);
    assert_eq!(script.written(), ["pong 5"]);
}

#[test]
fn presence_is_asked_for_after_each_welcome() {
    let mut script = Script::new();
    script.node.subscribe(1);
    script.connect();
    script.welcome(1);
    assert_eq!(script.written(), ["register last", "subscribe 1"]);
    let events = [Presence {
        event: PresenceKind::Login,
        name: "p",
        node: "n",
    }];
    script.hub(&[Message::Presence {
        snapshot: true,
        events: List::Items(&events),
    }]);
    let entries = vec![(PresenceKind::Login, "p".to_owned(), "n".to_owned())];
    assert_eq!(
        script.events.pop(),
        Some(NodeEvent::Presence {
            snapshot: true,
            entries
        })
    );
}

#[test]
fn what_comes_before_the_welcome_or_on_a_dead_link_is_not_obeyed() {
    let mut script = Script::new();
    script.send("p", "m");
    script.connect();
    script.receipt(1, Outcome::Delivered);
    assert_eq!(script.receipts(), []);
    assert!(!script.node.is_up());
    script.receipt(1, Outcome::Delivered);
    assert_eq!(script.receipts(), []);
}

proptest! {
    #[test]
    fn any_bytes_of_a_hub_are_survived(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..8)) {
        let mut script = Script::up();
        script.host("p", 11, 21, &[]);
        for frame in &frames {
            script.node.handle_frame(script.now, 7, frame);
            while script.node.poll_event().is_some() {}
            while script.node.poll_frame(script.now).is_some() {}
            if !script.node.is_up() {
                script.connect();
                script.welcome(1);
            }
        }
    }
}
