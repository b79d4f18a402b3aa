//! Hosted players: logins, deliveries, client acks, cursors over lost links and restarts.

use super::*;

#[test]
fn delivered_only_after_client_ack() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.deliver(21, 1, id(1, 1));
    script.deliver(21, 2, id(2, 1));
    script.deliver(21, 3, id(1, 2));
    assert_eq!(
        script.shown(),
        [("p".into(), 1), ("p".into(), 1), ("p".into(), 2)]
    );
    assert_eq!(script.written(), Vec::<String>::new());
    script.node.handled("p", id(2, 1));
    assert_eq!(
        script.written(),
        Vec::<String>::new(),
        "number 1 is not handled yet"
    );
    script.node.handled("p", id(1, 1));
    assert_eq!(script.written(), ["ack 21:2"]);
    script.node.handled("p", id(1, 2));
    assert_eq!(script.written(), ["ack 21:3"]);
}

#[test]
fn resend_after_hub_kill_is_handled_once() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.deliver(21, 1, id(1, 1));
    script.node.handled("p", id(1, 1));
    assert_eq!(script.written(), ["ack 21:1"]);
    script.shown();
    script.relink();
    let written = script.bound_last_request("p", 11, 22);
    assert_eq!(written, ["register p=11#2", "register last"]);
    script.deliver(22, 1, id(1, 1));
    assert_eq!(script.shown(), []);
    assert_eq!(script.written(), ["seen 22:1", "ack 22:1"]);
}

#[test]
fn what_is_being_handled_over_a_new_binding_is_not_shown_twice() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.deliver(21, 1, id(1, 1));
    assert_eq!(script.shown().len(), 1);
    script.relink();
    script.bound_last_request("p", 11, 22);
    script.deliver(22, 1, id(1, 1));
    script.deliver(22, 2, id(1, 2));
    assert_eq!(script.shown(), [("p".into(), 2)]);
    script.node.handled("p", id(1, 1));
    assert_eq!(script.written(), ["ack 22:1"]);
}

#[test]
fn client_cursor_survives_dead_node() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[id(1, 1)]);
    script.deliver(21, 1, id(1, 1));
    script.deliver(21, 2, id(1, 2));
    assert_eq!(script.shown(), [("p".into(), 2)]);
    assert_eq!(script.written(), ["seen 21:1", "ack 21:1"]);
}

#[test]
fn ack_of_old_binding_is_never_written() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.deliver(21, 1, id(1, 1));
    script.node.handled("p", id(1, 1)); // its ack is in line when the link breaks
    script.relink();
    script.bound_last_request("p", 11, 22);
    assert_eq!(script.written(), Vec::<String>::new());
    script.deliver(21, 2, id(1, 2)); // of the old binding: not for us
    script.shown();
    script.node.handled("p", id(1, 2));
    assert_eq!(script.written(), Vec::<String>::new());
}

#[test]
fn abandoned_login_is_answered_late() {
    let mut script = Script::up();
    script.node.attach("p", 0, Cursor::default()).unwrap();
    assert_eq!(script.written(), ["login p#1"]);
    script.node.attach("p", 0, Cursor::default()).unwrap();
    assert_eq!(script.written(), ["login p#2"]);
    script.bound("p", 11, 21, 1);
    assert_eq!(script.events, []);
    script.deliver(21, 1, id(1, 1));
    assert_eq!(script.shown(), []);
    script.bound("p", 12, 22, 2);
    assert_eq!(
        script.events,
        [NodeEvent::Bound {
            player: "p".into(),
            login: 12
        }]
    );
}

#[test]
fn new_client_on_stale_host() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.deliver(21, 1, id(1, 1));
    script.shown();
    assert_eq!(
        script.node.attach("p", 99, Cursor::default()),
        Ok(Attached::LoginPending)
    );
    assert_eq!(script.written(), ["login p#2"]);
    script.deliver(21, 2, id(1, 2));
    assert_eq!(script.shown(), [], "no stale frame");
    script.hub(&[Message::Drop {
        player: "p",
        login: 11,
        why: "replaced",
    }]);
    assert_eq!(
        script.events,
        [],
        "the login that was given up is not the new one"
    );
}

#[test]
fn a_client_that_names_the_login_resumes_in_place() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    for seq in 1..=3 {
        script.deliver(21, seq as u32, id(1, seq));
    }
    script.shown();
    script.node.detach(script.now, "p");
    script.deliver(21, 4, id(1, 4));
    assert_eq!(script.shown(), [], "there is no client to show it to");
    let resumed = script
        .node
        .attach("p", 11, Cursor::from_iter([id(1, 2)]))
        .unwrap();
    let Attached::Resumed(pending) = resumed else {
        panic!("{resumed:?}")
    };
    assert_eq!(seqs(&pending), [3, 4]);
    assert_eq!(script.written(), ["ack 21:2"]);
    script.deliver(21, 5, id(1, 5));
    assert_eq!(script.shown(), [("p".into(), 5)]);
}

#[test]
fn a_resume_before_the_redelivery_still_shows_it() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.deliver(21, 1, id(1, 1));
    script.shown();
    script.relink();
    script.bound_last_request("p", 11, 22);
    let resumed = script.node.attach("p", 11, Cursor::default()).unwrap();
    assert_eq!(resumed, Attached::Resumed(Vec::new()));
    script.deliver(22, 1, id(1, 1));
    assert_eq!(script.shown(), [("p".into(), 1)]);
}

#[test]
fn logout_carries_cursor_and_is_repeated_until_done() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[id(3, 8)]);
    script.deliver(21, 1, id(1, 1));
    script.shown();
    script.node.handled("p", id(1, 1));
    assert!(script.node.leave_player("p"));
    assert_eq!(
        script.written(),
        ["logout p=11 1:1 3:8"],
        "no ack after it, and the cursor has all"
    );
    script.node.handled("p", id(1, 2));
    script.relink();
    assert_eq!(script.written(), ["logout p=11 1:1 3:8", "register last"]);
    script.hub(&[Message::LogoutDone {
        player: "p",
        login: 11,
    }]);
    assert!(
        script
            .events
            .contains(&NodeEvent::LoggedOut { player: "p".into() })
    );
    assert!(!script.node.leave_player("p"));
    script.relink();
    assert_eq!(script.written(), ["register last"]);
}

#[test]
fn an_attach_during_a_logout_waits_for_its_end() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.node.leave_player("p");
    script.written();
    assert_eq!(
        script.node.attach("p", 11, Cursor::default()),
        Ok(Attached::LoginPending)
    );
    assert_eq!(script.written(), Vec::<String>::new());
    script.hub(&[Message::LogoutDone {
        player: "p",
        login: 11,
    }]);
    assert_eq!(script.written(), ["login p#2"]);
}

#[test]
fn a_gone_client_is_logged_out_after_the_grace_time() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.node.detach(script.now, "p");
    let until = script.now + limits::CLIENT_GRACE_MS;
    while script.now < until {
        assert!(script.node.login_of("p").is_some());
        script.now = script.node.poll_timeout().unwrap();
        script.node.handle_timeout(script.now, 0);
        script.hub(&[Message::Pong { nonce: 0, low: 0 }]);
    }
    assert!(script.written().contains(&"logout p=11 ".to_owned()));
}

#[test]
fn a_dropped_player_is_discarded_with_its_memberships() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.node.member(true, false, "g", "p").unwrap();
    script.hub(&[Message::Joined {
        request: 1,
        ok: true,
        detail: "",
    }]);
    script.written();
    script.hub(&[Message::Drop {
        player: "p",
        login: 11,
        why: "newer login",
    }]);
    assert_eq!(
        script.events.pop(),
        Some(NodeEvent::Dropped {
            player: "p".into(),
            why: "newer login".into()
        })
    );
    script.relink();
    assert_eq!(script.written(), ["register last"]);
}

#[test]
fn forget_removes_the_mark_here_and_tells_the_client() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[id(1, 4), id(2, 4)]);
    script.hub(&[Message::Forget {
        player: "p",
        binding: 20,
        up_to: id(2, 9),
    }]);
    assert_eq!(script.events, [], "of another binding");
    script.hub(&[Message::Forget {
        player: "p",
        binding: 21,
        up_to: id(1, 4),
    }]);
    assert_eq!(
        script.events,
        [NodeEvent::Forget {
            player: "p".into(),
            up_to: id(1, 4)
        }]
    );
    script.node.leave_player("p");
    assert_eq!(script.written(), ["logout p=11 2:4"]);
}

#[test]
fn a_gap_in_the_numbers_makes_the_link_anew() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.deliver(21, 2, id(1, 2));
    assert_eq!(script.shown(), []);
    assert!(!script.node.is_up());
    assert_eq!(script.node.counters().violations, 1);
    script.connect();
}

#[test]
fn registration_comes_before_sends_and_is_closed_by_last() {
    let mut script = Script::up();
    script.host("p", 11, 21, &[]);
    script.host("q", 12, 22, &[]);
    script.node.leave_player("q");
    script.node.attach("r", 0, Cursor::default()).unwrap();
    script.node.member(true, false, "g", "p").unwrap();
    script.node.member(true, true, "d", "x").unwrap();
    script.node.subscribe(1);
    script.send("z", "m");
    script.written();
    script.relink();
    let expected = [
        "logout q=12 ",
        "register p=11#4",
        "login r#6",
        "join #0 false g/p",
        "join #1 false g/p",
        "join #2 true d/x",
        "register last",
        "subscribe 1",
        "again send 1 low 1 z m",
    ];
    assert_eq!(script.written(), expected);
}
