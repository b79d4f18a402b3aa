//! What waits for one link: two byte queues, receipts and the like ahead of payload.
//!
//! Everything that waits goes into one frame when the driver takes one; nothing waits to be packed.

use crate::bus::message::{Message, Outcome, Receipt};
use crate::bus::wire::{Item, Writer};
use crate::limits::{FRAME_TARGET_BYTES, MAX_FRAME_BYTES, MAX_LIST_ITEMS};
use std::collections::VecDeque;

/// Whole messages, cut into chunks of at most a frame.
#[derive(Debug, Default)]
struct Chunks {
    chunks: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Chunks {
    /// The chunk to append to.
    fn tail(&mut self) -> &mut Vec<u8> {
        if self
            .chunks
            .back()
            .is_none_or(|chunk| chunk.len() >= FRAME_TARGET_BYTES)
        {
            self.chunks.push_back(Vec::new());
        }
        self.chunks.back_mut().expect("one was pushed")
    }

    fn push(&mut self, message: &Message<'_>) {
        let tail = self.tail();
        let before = tail.len();
        let encoded = message.encode(tail);
        debug_assert!(
            encoded.is_ok(),
            "the hub sends what can't be read: {encoded:?}"
        );
        self.bytes += tail.len() - before;
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let chunk = self.chunks.pop_front()?;
        self.bytes -= chunk.len();
        Some(chunk)
    }
}

/// The queues of a link.
#[derive(Debug, Default)]
pub struct Outbound {
    control: Chunks,
    payload: Chunks,
    /// Where in the last control chunk a receipt message begins that may still grow, and its items.
    receipts: Option<(usize, usize)>,
}

impl Outbound {
    /// Bytes of payload that wait.
    pub const fn payload_bytes(&self) -> usize {
        self.payload.bytes
    }

    /// Bytes of everything else that wait.
    pub const fn control_bytes(&self) -> usize {
        self.control.bytes
    }

    /// Whether nothing waits.
    pub const fn is_empty(&self) -> bool {
        self.control.bytes + self.payload.bytes == 0
    }

    /// Queues what never waits behind payload.
    pub fn control(&mut self, message: &Message<'_>) {
        self.receipts = None;
        self.control.push(message);
    }

    /// Queues what is bounded by `link_bytes`.
    pub fn payload(&mut self, message: &Message<'_>) {
        self.payload.push(message);
    }

    /// Adds a receipt to the last message, if that has receipts, else begins one.
    pub fn receipt(&mut self, seq: u64, outcome: Outcome, detail: &str) {
        let item = Receipt {
            seq,
            outcome,
            detail,
        };
        let room = self
            .control
            .chunks
            .back()
            .is_some_and(|chunk| chunk.len() < FRAME_TARGET_BYTES);
        match self.receipts {
            Some((start, count)) if room && count < MAX_LIST_ITEMS => {
                self.grow(start, count + 1, item)
            }
            _ => {
                let start = self.control.tail().len();
                self.control.push(&Message::Receipt {
                    receipts: (&[item]).into(),
                });
                self.receipts = Some((start, 1));
            }
        }
    }

    fn grow(&mut self, start: usize, count: usize, item: Receipt<'_>) {
        let out = self
            .control
            .chunks
            .back_mut()
            .expect("a message with receipts is there");
        let before = out.len();
        item.write(&mut Writer { out })
            .expect("any receipt can be written");
        self.control.bytes += out.len() - before;
        let length = (out.len() - start) as u32;
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
        out[start + 8..start + 12].copy_from_slice(&(count as u32).to_le_bytes());
        self.receipts = Some((start, count));
    }

    /// Everything that waits, up to a frame.
    pub fn frame(&mut self) -> Option<Vec<u8>> {
        let Some(mut frame) = self.control.pop() else {
            return self.payload.pop();
        };
        if self.control.chunks.is_empty() {
            self.receipts = None;
            if self
                .payload
                .chunks
                .front()
                .is_some_and(|chunk| frame.len() + chunk.len() <= MAX_FRAME_BYTES)
            {
                frame.extend_from_slice(&self.payload.pop().expect("it has a front"));
            }
        }
        Some(frame)
    }

    /// The link is being closed: only control still goes out.
    pub fn drop_payload(&mut self) {
        self.payload = Chunks::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::codec::decode;

    #[test]
    fn receipts_share_a_message_and_go_ahead_of_payload() {
        let mut out = Outbound::default();
        out.payload(&Message::Cancelled { call: 9 });
        for seq in 1..=3 {
            out.receipt(seq, Outcome::Delivered, "");
        }
        out.control(&Message::Pong { nonce: 1, low: 0 });
        out.receipt(4, Outcome::Stored, "");
        let frame = out.frame().unwrap();
        let messages: Vec<_> = decode(&frame).map(Result::unwrap).collect();
        assert_eq!(messages.len(), 4);
        assert!(matches!(messages[0], Message::Receipt { receipts } if receipts.len() == 3));
        assert!(matches!(messages[2], Message::Receipt { receipts } if receipts.len() == 1));
        assert!(matches!(messages[3], Message::Cancelled { call: 9 }));
        assert!(out.is_empty() && out.frame().is_none());
        out.receipt(5, Outcome::Stored, "");
        assert_eq!(decode(&out.frame().unwrap()).count(), 1);
    }

    #[test]
    fn frames_stay_within_their_limit() {
        let mut out = Outbound::default();
        let payload = vec![0; 700_000];
        let id = crate::bus::message::MessageId {
            node_key: 1,
            epoch: 1,
            seq: 1,
        };
        for call in 0..5 {
            let (policy, content) = (
                crate::bus::message::Policy::MustDeliver,
                crate::bus::message::Content::Bytes,
            );
            let targets = (&[]).into();
            out.payload(&Message::Deliver(crate::bus::message::Deliver {
                id,
                policy,
                trace: false,
                content,
                targets,
                payload: &payload,
            }));
            out.receipt(call, Outcome::Delivered, "");
        }
        let mut messages = 0;
        while let Some(frame) = out.frame() {
            assert!(frame.len() <= MAX_FRAME_BYTES);
            messages += decode(&frame).map(Result::unwrap).count();
        }
        assert_eq!(messages, 6);
        assert!(out.is_empty());
    }
}
