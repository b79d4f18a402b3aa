//! Packets of any thread on their way to the loops' queues: charged, refused or copied.

use std::sync::MutexGuard;

use zmqgame_core::stream::packet::PREFIX_BYTES;

use super::command::{Command, Commands, MOST_COMMANDS, Waiting, packets_of};
use super::connection::HEAD_BYTES;
use super::counters::Counters;
use super::shared::{Shared, Write};
use super::table::{NotCharged, Place};

/// A run of packets is charged and queued at once, up to so many bytes: a bound must not be missed by far.
const RUN_BYTES: usize = 65_536;
/// A packet of so many bytes is charged before it is copied: what is refused costs nothing.
const LARGE_BYTES: usize = 16_384;

/// Packets of one call on their way to the queues: one lock and one wake-up for all of a loop's in a row,
/// one charge and one command for all of a connection's in a row.
pub(super) struct Sender<'a> {
    shared: &'a Shared,
    current: Option<(usize, MutexGuard<'a, Waiting>)>,
    run: Option<Run>,
    sent: u64,
    refused: usize,
    /// Payloads from here on are charged before they are copied.
    large_bytes: usize,
}

/// Packets in a row for one connection, at the end of the commands' arena, not charged yet.
struct Run {
    id: u64,
    kind: u8,
    start: usize,
    packets: usize,
}

impl<'a> Sender<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            current: None,
            run: None,
            sent: 0,
            refused: 0,
            large_bytes: LARGE_BYTES.min(shared.config.max_outbound_bytes),
        }
    }

    pub(super) fn send(&mut self, write: &Write<'_>, parts: &[&[u8]]) {
        let owner = Place::of(write.connection).owner;
        let shared = self.shared;
        let Some(end) = shared.loops.get(owner) else {
            Counters::add(&shared.counters.refused_closed, 1);
            self.refused += 1;
            return;
        };
        if self
            .current
            .as_ref()
            .is_none_or(|(index, _)| *index != owner)
        {
            // The lock held goes first: two threads must not wait for each other's.
            self.let_go();
            self.current = Some((owner, end.queue.lock()));
        }
        let payload: usize = parts.iter().map(|part| part.len()).sum();
        if payload >= self.large_bytes {
            return self.send_large(write, payload, parts);
        }
        let goes_on = self.run.as_ref().is_some_and(|run| {
            run.id == write.connection
                && (run.kind == write.kind || !shared.bounds_differ())
                && self.current.as_ref().is_some_and(|(_, waiting)| {
                    waiting.commands.arena.len() - run.start < RUN_BYTES
                })
        });
        if !goes_on {
            self.settle();
        }
        let Some((_, waiting)) = &mut self.current else {
            return;
        };
        let commands = &mut waiting.commands;
        let run = self.run.get_or_insert(Run {
            id: write.connection,
            kind: write.kind,
            start: commands.arena.len(),
            packets: 0,
        });
        run.packets += 1;
        commands.put(write.header(), payload, parts);
    }

    #[cold]
    fn send_large(&mut self, write: &Write<'_>, payload: usize, parts: &[&[u8]]) {
        self.settle();
        if self.charge(write.connection, write.kind, HEAD_BYTES + payload, 1)
            && let Some(commands) = self.commands()
        {
            commands.put(write.header(), payload, parts);
        }
    }

    /// Charges and queues the run.
    fn settle(&mut self) {
        let (Some(run), Some((_, waiting))) = (self.run.take(), &mut self.current) else {
            return;
        };
        let commands = &mut waiting.commands;
        let bytes = commands.arena.len() - run.start;
        if run.packets > 1 && !self.shared.has_room(run.id, run.kind, bytes) {
            // Some of them still fit.
            let packets = commands.arena.split_off(run.start);
            for packet in packets_of(&packets) {
                if self.charge(run.id, packet[PREFIX_BYTES], packet.len(), 1)
                    && let Some(commands) = self.commands()
                {
                    commands.arena.extend_from_slice(packet);
                }
            }
        } else if !self.charge(run.id, run.kind, bytes, run.packets)
            && let Some(commands) = self.commands()
        {
            commands.arena.truncate(run.start);
        }
    }

    fn commands(&mut self) -> Option<&mut Commands> {
        let (_, waiting) = self.current.as_mut()?;
        Some(&mut waiting.commands)
    }

    /// Charges and announces packets that stand at the arena's end, or will. Gives whether they are taken.
    fn charge(&mut self, id: u64, kind: u8, bytes: usize, packets: usize) -> bool {
        let Some((_, waiting)) = &mut self.current else {
            return false;
        };
        let list = &mut waiting.commands.list;
        let charged = if list.len() < MOST_COMMANDS {
            self.shared.charge(id, kind, bytes)
        } else {
            self.shared.count_refused(NotCharged::Full);
            Err(false)
        };
        match charged {
            Ok(()) => {
                list.push(Command::Write { id, bytes });
                self.sent += packets as u64;
            }
            Err(full) => {
                self.refused += packets;
                if full {
                    list.push(Command::Full { id });
                }
            }
        }
        charged.is_ok()
    }

    fn let_go(&mut self) {
        self.settle();
        // Counted before anybody can have got them.
        Counters::add(
            &self.shared.counters.packets_out,
            std::mem::take(&mut self.sent),
        );
        if let Some((index, guard)) = self.current.take() {
            drop(guard);
            self.shared.loops[index].queue.wake().wake();
        }
    }

    pub(super) fn finish(mut self) -> usize {
        self.let_go();
        self.refused
    }
}
