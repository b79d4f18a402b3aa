//! What waits to be written to one connection: many small frames packed into one piece, large ones
//! as pieces of their own, handed to the socket as one vector.

use std::collections::VecDeque;
use std::io::IoSlice;

use super::limits::KEEP_OUT_BYTES;

/// Bytes in order, in as few pieces as possible.
#[derive(Debug, Default)]
pub struct OutQueue {
    pieces: VecDeque<Vec<u8>>,
    /// Written already, of the first piece.
    offset: usize,
    bytes: usize,
}

/// A piece that has grown to this takes no more: the next one starts, so that what was written is
/// freed in steps.
const PIECE_BYTES: usize = 262_144;

impl OutQueue {
    /// How many bytes wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends through `write`, which may only append.
    pub fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self
            .pieces
            .back()
            .is_none_or(|piece| piece.len() >= PIECE_BYTES)
        {
            self.pieces.push_back(Vec::new());
        }
        let last = self.pieces.back_mut().expect("pushed above");
        let before = last.len();
        write(last);
        self.bytes += last.len() - before;
    }

    /// Appends a piece without copying it.
    pub fn append_owned(&mut self, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        if self.pieces.back().is_some_and(Vec::is_empty) {
            self.pieces.pop_back();
        }
        self.pieces.push_back(bytes);
    }

    /// Fills `slices` with what waits, oldest first; gives how many were filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (index, piece) in self.pieces.iter().enumerate() {
            let from = if index == 0 { self.offset } else { 0 };
            if from == piece.len() {
                continue;
            }
            let Some(slot) = slices.get_mut(filled) else {
                break;
            };
            *slot = IoSlice::new(&piece[from..]);
            filled += 1;
        }
        filled
    }

    /// Forgets the first `count` bytes, which were written.
    pub fn consume(&mut self, count: usize) {
        self.bytes -= count;
        self.offset += count;
        let only_one = self.pieces.len() == 1;
        while let Some(first) = self.pieces.front_mut() {
            if self.offset < first.len() {
                return;
            }
            self.offset -= first.len();
            if only_one && first.capacity() <= KEEP_OUT_BYTES {
                first.clear();
                return;
            }
            self.pieces.pop_front();
        }
    }

    /// Everything that waits, in one piece: for tests and drivers without sockets.
    pub fn take(&mut self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.bytes);
        while !self.is_empty() {
            let before = all.len();
            let mut slices = [IoSlice::new(&[]); 16];
            let filled = self.slices(&mut slices);
            slices[..filled]
                .iter()
                .for_each(|slice| all.extend_from_slice(slice));
            self.consume(all.len() - before);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keeps_order_whatever_is_written(
            pieces in prop::collection::vec((any::<bool>(), 0usize..200_000), 0..12),
            steps in prop::collection::vec(1usize..150_000, 1..20),
        ) {
            let mut queue = OutQueue::default();
            let (mut want, mut got) = (Vec::new(), Vec::new());
            let mut steps = steps.iter().cycle();
            for (i, (owned, length)) in pieces.into_iter().enumerate() {
                let bytes = vec![u8::try_from(i).unwrap(); length];
                want.extend_from_slice(&bytes);
                if owned { queue.append_owned(bytes) } else { queue.append(|out| out.extend_from_slice(&bytes)) }
                write(&mut queue, &mut got, *steps.next().unwrap());
                prop_assert_eq!(queue.len(), want.len() - got.len());
            }
            got.extend_from_slice(&queue.take());
            prop_assert!(queue.is_empty());
            prop_assert_eq!(want, got);
        }
    }

    fn write(queue: &mut OutQueue, got: &mut Vec<u8>, at_most: usize) {
        let mut slices = [IoSlice::new(&[]); 3];
        let filled = queue.slices(&mut slices);
        let mut count = 0;
        for slice in &slices[..filled] {
            let part = slice.len().min(at_most - count);
            got.extend_from_slice(&slice[..part]);
            count += part;
        }
        queue.consume(count);
    }
}
