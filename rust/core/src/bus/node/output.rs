//! What waits for the socket, beside the window: acks first, then control messages in order.

use super::event::Events;
use super::limits::{CONTROL_BYTES, WRITE_BYTES};
use crate::bus::message::{Ack, Message, Number};
use crate::bus::wire::List;
use crate::error::WireError;
use crate::limits::MAX_LIST_ITEMS;
use std::collections::VecDeque;

/// Control messages, acks, and events for the owner.
#[derive(Debug, Default)]
pub struct Output {
    /// For the owner.
    pub events: Events,
    /// Whether a welcomed link is there: else what depends on it is not written, but made anew at the next welcome.
    pub up: bool,
    /// Whether this hub wants to hear of what was dropped as handled before.
    pub seen_wanted: bool,
    seen: Vec<Number>,
    /// Bindings and numbers as they came; the last of a binding counts.
    acks: Vec<(u64, u32)>,
    control: VecDeque<Vec<u8>>,
    control_bytes: usize,
}

impl Output {
    /// Whether the owner may add a request or reply: what the node itself has to say always has room, for it is
    /// bounded by what is hosted.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.control_bytes < CONTROL_BYTES
    }

    /// Puts a control message in line, whatever the link's state. False: it can't be encoded.
    pub fn push(&mut self, message: &Message<'_>) -> bool {
        if self
            .control
            .back()
            .is_none_or(|last| last.len() >= WRITE_BYTES)
        {
            self.control.push_back(Vec::new());
        }
        let Some(last) = self.control.back_mut() else {
            return false;
        };
        let before = last.len();
        if message.encode(last).is_err() {
            last.truncate(before);
            return false;
        }
        self.control_bytes += last.len() - before;
        true
    }

    /// As `push`, if the link is up: else the next welcome says it anew.
    pub fn push_if_up(&mut self, message: &Message<'_>) {
        if self.up {
            self.push(message);
        }
    }

    /// Acks all numbers of the binding up to this one.
    pub fn ack(&mut self, binding: u64, up_to: u32) {
        if !self.up {
            return;
        }
        match self.acks.last_mut() {
            Some(last) if last.0 == binding => last.1 = up_to,
            _ => self.acks.push((binding, up_to)),
        }
    }

    /// A delivery was dropped, because the cursor is past it; goes out ahead of its ack.
    pub fn seen(&mut self, delivery: Number) {
        if self.up && self.seen_wanted {
            self.seen.push(delivery);
        }
    }

    /// A binding is void: so are its acks.
    pub fn void(&mut self, binding: u64) {
        if !self.seen.is_empty() {
            self.seen.retain(|delivery| delivery.binding != binding);
        }
        if !self.acks.is_empty() {
            self.acks.retain(|ack| ack.0 != binding);
        }
    }

    /// The connection is gone, and with it what waited for it.
    pub fn disconnected(&mut self) {
        self.up = false;
        self.seen.clear();
        self.acks.clear();
        self.control.clear();
        self.control_bytes = 0;
    }

    /// Whether `write` would append something.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.acks.is_empty() || self.control.iter().any(|batch| !batch.is_empty())
    }

    /// Appends acks, then control messages up to about `target_bytes`.
    ///
    /// # Errors
    /// Never: acks are numbers.
    pub fn write(&mut self, out: &mut Vec<u8>, target_bytes: usize) -> Result<(), WireError> {
        for part in std::mem::take(&mut self.seen).chunks(MAX_LIST_ITEMS) {
            Message::Seen {
                deliveries: List::Items(part),
            }
            .encode(out)?;
        }
        self.acks.sort_unstable(); // numbers of a binding only grow
        let ends = self.acks.chunk_by(|a, b| a.0 == b.0);
        let last = ends.filter_map(|same| same.last());
        let acks: Vec<Ack> = last
            .map(|&(binding, up_to)| Ack { binding, up_to })
            .collect();
        self.acks.clear();
        for part in acks.chunks(MAX_LIST_ITEMS) {
            Message::Ack {
                acks: List::Items(part),
            }
            .encode(out)?;
        }
        while out.len() < target_bytes {
            let Some(batch) = self.control.pop_front() else {
                break;
            };
            self.control_bytes -= batch.len();
            out.extend_from_slice(&batch);
        }
        Ok(())
    }
}
