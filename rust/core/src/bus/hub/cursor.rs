//! The cursor of a session holds a bounded number of senders: which marks may go, and who waits for room (BUS.md rule 32).

use crate::bus::broken::Rule;
use crate::bus::hub::Hub;
use crate::bus::hub::directory::Phase;
use crate::bus::hub::line::SenderMark;
use crate::bus::message::Message;

impl Hub {
    /// Tells the node which marks of a full cursor can't be needed again [32].
    ///
    /// Before live, an unread row may repeat what went out before: the mark knows.
    pub(super) fn forget(&mut self, at: u32) {
        let player = self.players.get(at);
        let Some(line) = player
            .line
            .as_deref()
            .filter(|line| line.marks.len() * 2 >= self.config.cursor_senders)
        else {
            return;
        };
        let live = player.phase == Phase::Live;
        let hasty = self.broken.lacks(Rule::ForgetWaitsForRows);
        let reckless = self.broken.lacks(Rule::ForgetWaitsForLow);
        let read = live || player.phase == Phase::Drain && line.sent.is_empty();
        if !(read && line.has_no_rows_open() || hasty) {
            return;
        }
        let complete = self.mailbox.opened;
        let may_go = |mark: &&SenderMark| {
            (live || !mark.row_ahead || hasty)
                && (self.sessions.is_over(&mark.id, complete) || reckless)
                && (!line.holds_sender(mark.id.node_key) || hasty)
        };
        let marks: Vec<_> = line
            .marks
            .iter()
            .filter(may_go)
            .map(|mark| mark.id)
            .collect();
        let (name, link) = (player.name.clone(), self.sessions.get(player.host).link);
        let binding = self.in_epoch(player.binding);
        for up_to in marks {
            self.counters.forgets += 1;
            self.control(
                link,
                &Message::Forget {
                    player: &name,
                    binding,
                    up_to,
                },
            );
            self.players
                .get_mut(at)
                .line()
                .marks
                .retain(|mark| mark.id != up_to);
        }
    }

    /// Players whose cursor was full: perhaps a mark may go now.
    pub(super) fn check_crowded(&mut self) {
        for _ in 0..self.crowded.len() {
            let Some(at) = self.crowded.pop_front() else {
                return;
            };
            if self.players.at(at).is_some() {
                self.players.get_mut(at).line().crowded = false;
                self.forget(at);
                self.store_crowded(at);
                self.pump(at);
            }
        }
    }

    /// What waits for a mark to go waits in the mailbox: it has its receipt then, so that its sender's low rises, and
    /// marks of that sender may go at other players. In memory, players could wait for each other for ever.
    fn store_crowded(&mut self, at: u32) {
        let player = self.players.get_mut(at);
        let reads = matches!(player.phase, Phase::Drain | Phase::Live);
        let line = player.line();
        if reads && line.marks.len() >= self.config.cursor_senders && !line.queue.is_empty() {
            player.phase = Phase::Drain;
            self.flush(at);
        }
    }
}
