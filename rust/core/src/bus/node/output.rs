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
    /// One a binding; with the binding 0 those that are void.
    acks: Vec<Ack>,
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

    /// Acks all numbers of the binding up to this one. `place`: where its ack is, or was before it went out.
    pub fn ack(&mut self, ack: Ack, place: &mut u32) {
        if !self.up {
            return;
        }
        match self.acks.get_mut(*place as usize) {
            Some(waiting) if waiting.binding == ack.binding => waiting.up_to = ack.up_to,
            _ => {
                *place = self.acks.len() as u32;
                self.acks.push(ack);
            }
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
        let of_binding = self.acks.iter_mut().filter(|ack| ack.binding == binding);
        of_binding.for_each(|ack| ack.binding = 0);
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
        self.acks.retain(|ack| ack.binding != 0);
        for part in self.acks.chunks(MAX_LIST_ITEMS) {
            Message::Ack {
                acks: List::Items(part),
            }
            .encode(out)?;
        }
        self.acks.clear();
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
