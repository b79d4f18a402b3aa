//! Who hosts a player: newer logins, restarts, lost hosts.

use super::*;
use Outcome::{Delivered, Stored};

fn two() -> (World, Node, Node, Node) {
    let mut world = World::new();
    let (sender, first, second) = (
        world.node("sender", 1),
        world.node("first", 1),
        world.node("second", 1),
    );
    (world, sender, first, second)
}

#[test]
fn ack_of_old_binding_is_ignored() {
    let (mut world, sender, first, second) = two();
    let (_, old) = world.login(&first, "p");
    world.send(&sender, 1, "p");
    let (login, new) = world.login(&second, "p");
    let dropped = world.take(&first).dropped;
    assert_eq!(dropped, vec![("p".to_string(), login - 2)]);
    assert_eq!(world.take(&second).delivered, vec![(new, 1, 1)]);
    world.ack(&first, old, 1);
    world.ack(&second, old, 1);
    world.ack(&first, new, 1);
    assert_eq!(world.take(&sender).outcomes(), vec![]);
    world.ack(&second, new, 1);
    assert_eq!(world.take(&sender).outcomes(), vec![(1, Delivered)]);
}

#[test]
fn old_registration_after_hub_restart() {
    let (mut world, _, first, second) = two();
    let (old, _) = world.login(&first, "p");
    let (new, _) = world.login(&second, "p");
    let mut world = world.restart();
    let (first, second) = (world.hello("first", 1), world.hello("second", 1));
    let (_, binding) = world.register(&second, "p", new, true).unwrap();
    assert_eq!(world.register(&first, "p", old, true), None);
    assert_eq!(world.take(&first).dropped, vec![("p".to_string(), old)]);
    let sender = world.node("sender", 1);
    world.send(&sender, 1, "p");
    assert_eq!(world.take(&second).delivered, vec![(binding, 1, 1)]);
}

#[test]
fn old_registration_first_after_hub_restart() {
    let (mut world, _, first, second) = two();
    let (old, _) = world.login(&first, "p");
    let (new, _) = world.login(&second, "p");
    let mut world = world.restart();
    let (first, second) = (world.hello("first", 1), world.hello("second", 1));
    let (_, stale) = world.register(&first, "p", old, true).unwrap();
    let sender = world.node("sender", 1);
    world.send(&sender, 1, "p");
    assert_eq!(world.take(&first).seqs(), vec![1]);
    let (_, binding) = world.register(&second, "p", new, true).unwrap();
    assert_eq!(world.take(&first).dropped, vec![("p".to_string(), old)]);
    world.ack(&first, stale, 1);
    assert_eq!(world.take(&sender).outcomes(), vec![]);
    assert_eq!(world.take(&second).delivered, vec![(binding, 1, 1)]);
    world.ack(&second, binding, 1);
    assert_eq!(world.take(&sender).outcomes(), vec![(1, Delivered)]);
}

#[test]
fn login_after_hub_restart_beats_old() {
    let (mut world, _, first, _) = two();
    let (old, _) = world.login(&first, "p");
    let mut world = world.restart();
    let second = world.hello("second", 1);
    let (new, _) = world.login(&second, "p");
    assert!(new > old);
    let first = world.hello("first", 1);
    assert_eq!(world.register(&first, "p", old, true), None);
}

#[test]
fn host_lost_with_messages_in_flight() {
    let (mut world, sender, first, second) = two();
    world.login(&first, "p");
    for seq in 1..=6 {
        world.send(&sender, seq, "p");
    }
    // Silently dead: nothing more is heard of it. Its grace begins when the link is given up.
    world.pass_with(&[&sender, &second], 2_500);
    assert_eq!(world.take(&sender).outcomes(), vec![]);
    world.pass_with(&[&sender, &second], 6_000);
    assert_eq!(world.take(&first).error, Some(ErrorCode::Silent));
    assert_eq!(
        world.take(&sender).outcomes(),
        (1..=6).map(|seq| (seq, Stored)).collect::<Vec<_>>()
    );
    let (_, binding) = world.login(&second, "p");
    assert_eq!(world.take(&second).seqs(), vec![1, 2, 3, 4]);
    world.ack(&second, binding, 4);
    assert_eq!(world.take(&second).seqs(), vec![5, 6]);
}

#[test]
fn a_node_that_is_back_in_time_gets_what_was_in_flight_again() {
    let (mut world, sender, first, _) = two();
    let (login, _) = world.login(&first, "p");
    world.send(&sender, 1, "p");
    world.drop_link(&first);
    world.send(&sender, 2, "p");
    let first = world.hello("first", 1);
    let (same, binding) = world.register(&first, "p", login, true).unwrap();
    assert_eq!(same, login);
    assert_eq!(
        world.take(&first).delivered,
        vec![(binding, 1, 1), (binding, 2, 2)]
    );
    assert!(world.store.is_empty(), "nothing was stored");
}

#[test]
fn new_node_epoch_ends_hosting() {
    let (mut world, sender, first, _) = two();
    world.login(&first, "p");
    world.send(&sender, 1, "p");
    world.drop_link(&first);
    world.hello("first", 2);
    assert_eq!(
        world.take(&sender).outcomes(),
        vec![(1, Stored)],
        "at once, not after the grace"
    );
}

#[test]
fn what_the_registration_does_not_name_is_not_hosted() {
    let (mut world, sender, first, _) = two();
    world.login(&first, "p");
    world.send(&sender, 1, "p");
    world.drop_link(&first);
    world.node("first", 1);
    assert_eq!(world.take(&sender).outcomes(), vec![(1, Stored)]);
}

#[test]
fn bye_ends_hosting_and_the_epoch() {
    let (mut world, sender, first, _) = two();
    world.login(&first, "p");
    world.send(&sender, 1, "p");
    world.say(&first, &Message::Bye { low: 1 });
    assert_eq!(world.take(&sender).outcomes(), vec![(1, Stored)]);
    let again = world.hello("first", 1);
    assert_eq!(world.take(&again).error, Some(ErrorCode::OldEpoch));
    let mut world = world.restart();
    let again = world.hello("first", 1);
    assert_eq!(
        world.take(&again).error,
        Some(ErrorCode::OldEpoch),
        "also after a restart of the hub"
    );
}

#[test]
fn sends_wait_in_memory_while_nodes_come_back() {
    let (mut world, _, first, _) = two();
    let (login, _) = world.login(&first, "p");
    let mut world = world.restart();
    let sender = world.node("sender", 1);
    world.send(&sender, 1, "p");
    assert_eq!(world.take(&sender).outcomes(), vec![]);
    let first = world.hello("first", 1);
    world.register(&first, "p", login, true).unwrap();
    assert_eq!(world.take(&first).seqs(), vec![1]);
    assert!(world.store.is_empty(), "the hold saves the disk");
}

#[test]
fn one_node_never_comes_back() {
    let (mut world, _, first, _) = two();
    world.login(&first, "p");
    let mut world = world.restart();
    let (sender, second) = (world.node("sender", 1), world.node("second", 1));
    world.send(&sender, 1, "p");
    world.pass_with(&[&sender, &second], 2_900);
    assert_eq!(world.take(&sender).outcomes(), vec![]);
    world.pass_with(&[&sender, &second], 200);
    assert_eq!(world.take(&sender).outcomes(), vec![(1, Stored)]);
}

#[test]
fn the_hold_ends_when_all_are_back() {
    let (mut world, _, first, _) = two();
    world.login(&first, "p");
    let mut world = world.restart();
    let (sender, _) = (world.node("sender", 1), world.node("second", 1));
    world.send(&sender, 1, "p");
    assert_eq!(world.take(&sender).outcomes(), vec![]);
    world.node("first", 2); // Back, without the player.
    assert_eq!(world.take(&sender).outcomes(), vec![(1, Stored)]);
}

#[test]
fn resend_after_hub_kill_comes_to_the_cursor() {
    let (mut world, sender, first, _) = two();
    let (login, binding) = world.login(&first, "p");
    world.send(&sender, 1, "p");
    world.hub.handle_frame(world.now, first.conn, &{
        let mut frame = Vec::new();
        Message::Ack {
            acks: (&[Ack { binding, up_to: 1 }]).into(),
        }
        .encode(&mut frame)
        .unwrap();
        frame
    }); // Killed before the receipt goes out.
    let mut world = world.restart();
    let (sender, first) = (world.node("sender", 1), world.hello("first", 1));
    let (_, binding) = world.register(&first, "p", login, true).unwrap();
    world.resend(&sender, 1, "p");
    assert_eq!(
        world.take(&first).delivered,
        vec![(binding, 1, 1)],
        "its node acks it without handling it"
    );
    world.ack(&first, binding, 1);
    assert_eq!(world.take(&sender).outcomes(), vec![(1, Delivered)]);
}

#[test]
fn forget_waits_for_settle() {
    let (mut world, _, first, _) = two();
    world.login(&first, "known");
    let (login, _) = world.login(&first, "p");
    world.logout(&first, "p", login, &[]);
    let names: Vec<&'static str> = (0..32).map(|n| &*format!("s{n}").leak()).collect();
    let senders: Vec<Node> = names.into_iter().map(|name| world.node(name, 1)).collect();
    for sender in &senders {
        world.send(sender, 1, "p"); // Stored.
        world.say(sender, &Message::Ping { nonce: 0, low: 2 });
    }
    let (_, binding) = world.login(&first, "p");
    for number in (4..=28).step_by(4) {
        world.ack(&first, binding, number);
    }
    assert_eq!(world.take(&first).forgotten, vec![]);
    world.auto = false;
    world.ack(&first, binding, 32);
    assert_eq!(
        world.take(&first).forgotten,
        vec![],
        "the last rows are not settled"
    );
    world.auto = true;
    world.run();
    assert_eq!(world.take(&first).forgotten.len(), 32);
}

#[test]
fn marks_are_bounded() {
    let (mut world, _, first, _) = two();
    let (_, binding) = world.login(&first, "p");
    let names: Vec<&'static str> = (0..65).map(|n| &*format!("s{n}").leak()).collect();
    let senders: Vec<Node> = names.into_iter().map(|name| world.node(name, 1)).collect();
    for (n, sender) in senders.iter().enumerate() {
        world.send(sender, 1, "p");
        world.ack(&first, binding, n as u32 + 1);
    }
    assert_eq!(
        world.take(&first).seqs().len(),
        64,
        "the 65th waits for a mark to go"
    );
    world.say(&senders[7], &Message::Ping { nonce: 0, low: 2 });
    world.pass(300);
    let received = world.take(&first);
    assert_eq!(received.forgotten, vec![senders[7].id(1)]);
    assert_eq!(received.delivered, vec![(binding, 65, 1)]);
    // Restarts of one sender are one mark.
    for epoch in 2..50 {
        let again = world.node("s3", epoch);
        world.send(&again, 1, "p");
        let number = 64 + epoch as u32;
        world.ack(&first, binding, number);
    }
    assert_eq!(world.take(&first).seqs().len(), 48);
}

#[test]
fn new_sender_epoch_continues_order() {
    let (mut world, sender, first, _) = two();
    let (login, _) = world.login(&first, "p");
    world.logout(&first, "p", login, &[]);
    world.send(&sender, 7, "p");
    world.drop_link(&sender);
    let sender = world.node("sender", 2);
    world.send(&sender, 1, "p");
    assert_eq!(world.take(&sender).outcomes(), vec![(1, Stored)]);
    let (_, binding) = world.login(&first, "p");
    assert_eq!(world.take(&first).seqs(), vec![7, 1]);
    world.ack(&first, binding, 2);
    let (login, _) = world.login(&first, "p");
    world.logout(
        &first,
        "p",
        login,
        &[Mark {
            node_key: node_key("sender"),
            epoch: 1,
            seq: 7,
        }],
    );
    world.login(&first, "p");
    assert!(
        world.store.mailboxes["p"]
            .accepted
            .values()
            .all(|mark| mark.0 == 2),
        "marks of the old epoch end"
    );
}

#[test]
fn who_stays_away_is_forgotten_and_comes_back() {
    let mut world = World::new();
    let (sender, host) = (world.node("sender", 1), world.node("host", 1));
    let (login, _) = world.login(&host, "p");
    world.logout(&host, "p", login, &[]);
    world.send(&sender, 1, "p");
    world.take(&host);
    assert_eq!(world.hub.players.len(), 1);
    world.pass_with(&[&sender, &host], 601_000);
    assert_eq!(world.hub.players.len(), 0);
    let (newer, binding) = world.login(&host, "p");
    assert!(newer > login);
    assert_eq!(world.take(&host).seqs(), [1], "its mailbox is read");
    world.ack(&host, binding, 1);
    world.send(&sender, 2, "nobody");
    let refused = (2, Outcome::Refused);
    assert_eq!(
        world.take(&sender).outcomes(),
        [(1, Outcome::Stored), refused]
    );
}

#[test]
fn a_replaced_node_is_refused_after_its_player_stayed_away() {
    let mut world = World::new();
    let (first, second) = (world.node("first", 1), world.node("second", 1));
    let (old, _) = world.login(&first, "p");
    world.drop_link(&first);
    let (login, _) = world.login(&second, "p");
    world.logout(&second, "p", login, &[]);
    world.pass_with(&[&second], 700_000);
    assert_eq!(
        world.hub.players.len(),
        1,
        "one that was replaced is remembered"
    );
    let first = world.hello("first", 1);
    assert_eq!(world.register(&first, "p", old, true), None);
    assert_eq!(world.take(&first).dropped, [("p".to_string(), old)]);
    world.pass_with(&[&second, &first], 86_400_000);
    assert_eq!(world.hub.players.len(), 0);
}
