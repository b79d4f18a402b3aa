//! The operations, each a part of the open transaction.

use crate::Failure;
use crate::admin::admin;
use crate::database::{Database, Pending};
use crate::limits::{CACHED_MARKS, READ_BYTES, READ_ROWS, ROSTER_DAYS, ROW_BYTES, USED_PLAYERS};
use crate::memory::{Cached, List};
use crate::schema::{row_number, signed, unsigned};
use crate::store::Options;
use rusqlite::{OptionalExtension, Params};
use std::sync::Arc;
use zmqgame_core::bus::message::{Content, Mark, MessageId};
use zmqgame_core::bus::store::{
    DEFERRED_EPOCH, DEFERRED_KEY, Moved, RosterEntry, Row, StoreDone, StoreOp,
};

/// What an operation has changed, and so what makes it durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// What it does again when it is run again: a record in the log.
    Logged,
    /// Something else: the transaction is committed.
    Commit,
}

/// How far `expire` has looked, in each table.
#[derive(Debug, Default, Clone)]
pub struct Looked {
    rows: i64,
    deferred: i64,
    /// Player and sender.
    marks: (String, i64),
}

/// What operations need beside the database.
#[derive(Debug)]
pub struct Run<'a> {
    pub options: &'a Options,
    pub now_ms: u64,
    pub looked: &'a mut Looked,
}

type Answer = Result<(StoreDone, Effect), Failure>;

const fn effect(changed: bool) -> Effect {
    if changed {
        Effect::Logged
    } else {
        Effect::None
    }
}

const fn done(changed: bool) -> (StoreDone, Effect) {
    (StoreDone::Done, effect(changed))
}

fn content(value: u8) -> Content {
    match value {
        1 => Content::Text,
        2 => Content::Json,
        _ => Content::Bytes,
    }
}

fn count_at(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<u64> {
    row.get(at).map(i64::cast_unsigned)
}

fn mark(row: &rusqlite::Row<'_>) -> rusqlite::Result<Mark> {
    Ok(MessageId {
        node_key: unsigned(row.get(0)?),
        epoch: unsigned(row.get(1)?),
        seq: unsigned(row.get(2)?),
    })
}

impl Run<'_> {
    /// Carries out one operation; `open` is the store's.
    pub fn operation(&mut self, database: &mut Database, op: &StoreOp) -> Answer {
        use StoreOp::{Admin, Due, Expire, Logout, Read, Settle};
        if matches!(
            op,
            Read { .. } | Settle { .. } | Logout { .. } | Due { .. } | Expire { .. } | Admin { .. }
        ) {
            database.write_rows()?; // what follows sees rows, or adds some behind them
        }
        match op {
            StoreOp::Append { .. } => self.append(database, op),
            StoreOp::Defer { .. } => self.defer(database, op),
            StoreOp::Due { unix_ms, limit } => due(database, *unix_ms, *limit),
            StoreOp::Expire { unix_ms, limit } => self.expire(database, *unix_ms, *limit),
            StoreOp::Admin { json } => {
                let (json, changed) = admin(database, json)?;
                let effect = if changed {
                    Effect::Commit
                } else {
                    Effect::None
                };
                Ok((StoreDone::Text { json }, effect))
            }
            StoreOp::Read {
                player,
                after_row,
                limit,
            } => Ok((read(database, player, *after_row, *limit)?, Effect::None)),
            StoreOp::Accepted { player } => accepted(database, player),
            StoreOp::Settle { player, up_to } => {
                let values = (&**player, row_number(*up_to));
                let gone = delete(database, "rows where player = ? and row <= ?", values)?;
                Ok(done(gone > 0))
            }
            StoreOp::Logout { player, cursor } => logout(database, player, cursor),
            StoreOp::Trim { .. } => trim(database, op),
            StoreOp::Know { player } => know(database, player),
            StoreOp::Join { group, player } => {
                if !database.exists("select 1 from players where player = ?", [&**player])? {
                    return Ok((StoreDone::UnknownPlayer, Effect::None));
                }
                let sql = "insert or ignore into members values (?, ?)";
                Ok(done(database.execute(sql, (&**group, &**player))? > 0))
            }
            StoreOp::Leave { group, player } => {
                let sql = "delete from members where group_name = ? and player = ?";
                Ok(done(database.execute(sql, (&**group, &**player))? > 0))
            }
            StoreOp::Roster { entry } => self.roster(database, entry),
            StoreOp::Open { .. } => {
                Err(Failure::Unavailable("open comes from the hub only".into()))
            }
        }
    }

    fn append(&mut self, database: &mut Database, op: &StoreOp) -> Answer {
        let StoreOp::Append {
            player,
            id,
            deadline_ms,
            content,
            payload,
            first,
        } = op
        else {
            return Err(Failure::Unavailable("no append".into()));
        };
        let taken = self.take(database, List::Rows, player, *id, payload.len(), *first)?;
        if let Some(answer) = taken {
            return Ok((answer, Effect::None));
        }
        database.hold(Pending {
            player: player.clone(),
            id: *id,
            deadline_ms: *deadline_ms,
            content: *content,
            payload: payload.clone(),
        })?;
        Ok((StoreDone::Appended, Effect::Logged))
    }

    fn roster(&self, database: &mut Database, entry: &RosterEntry) -> Answer {
        // [4b] an epoch never goes back; a late `linked` of an older one changes nothing
        let sql = "insert into roster values (?, ?, ?, ?, ?) on conflict (node_key) do update
            set name = excluded.name, epoch = excluded.epoch, linked = excluded.linked,
            seen_ms = excluded.seen_ms where excluded.epoch >= roster.epoch";
        let values = (
            signed(entry.node_key),
            &*entry.name,
            signed(entry.epoch),
            entry.linked,
            self.now_ms.cast_signed(),
        );
        Ok(done(database.execute(sql, values)? > 0))
    }

    /// Counts a message that is new and has room; else the answer.
    fn take(
        &self,
        database: &mut Database,
        list: List,
        player: &Arc<str>,
        id: MessageId,
        size: usize,
        first: bool,
    ) -> Result<Option<StoreDone>, Failure> {
        let known = is_known(database, player)?;
        if known
            && find_mark(database, list, player, id.node_key)?
                .is_some_and(|mark| (id.epoch, id.seq) <= mark)
        {
            return repeated(database, list, player, id).map(Some); // [20, 35] never refused
        }
        if !database.refused.is_empty()
            && let Some(refused) = database.refused.get(&(list, player.clone(), id.node_key))
        {
            return Ok(Some(refused.clone())); // else a later one would be in before a refused one
        }
        let refused = if !known {
            StoreDone::UnknownPlayer
        } else {
            let size = size as u64;
            // When the log is run again nobody asks how much there is.
            let used = if first {
                usage(database, player)?
            } else {
                (0, 0)
            };
            let room = database.bytes + size.cast_signed() + ROW_BYTES;
            let options = self.options;
            if first && (used.0 >= options.player_messages || used.1 + size > options.player_bytes)
            {
                StoreDone::OverQuota {
                    messages: used.0,
                    bytes: used.1,
                } // [35]
            } else if first && room > options.max_bytes {
                StoreDone::Full
            } else {
                database.bytes = room;
                let mark = Some((id.epoch, id.seq));
                let memory = &mut database.memory;
                if let Some(mailbox) = memory.players.get_mut(player) {
                    mailbox.used = mailbox.used.map(|used| (used.0 + 1, used.1 + size));
                    let new = mailbox.set_mark(list, id.node_key, Cached { mark, dirty: true });
                    memory.marks += usize::from(new);
                }
                return Ok(None);
            }
        };
        database
            .refused
            .insert((list, player.clone(), id.node_key), refused.clone());
        Ok(Some(refused))
    }

    fn defer(&self, database: &mut Database, op: &StoreOp) -> Answer {
        let StoreOp::Defer {
            player,
            id,
            deliver_at_ms,
            deadline_ms,
            content,
            payload,
            first,
        } = op
        else {
            return Ok(done(false));
        };
        let taken = self.take(database, List::Deferred, player, *id, payload.len(), *first)?;
        if let Some(answer) = taken {
            return Ok((answer, Effect::None));
        }
        let values = (
            signed(*deliver_at_ms),
            &**player,
            signed(id.node_key),
            signed(id.epoch),
            signed(id.seq),
            signed(*deadline_ms),
            *content as u8,
            &**payload,
        );
        database.execute(
            "insert into deferred (deliver_at_ms, player, node_key, epoch, seq, deadline_ms, content, payload)
             values (?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )?;
        Ok((StoreDone::Appended, Effect::Logged))
    }

    fn expire(&mut self, database: &mut Database, unix_ms: u64, limit: u32) -> Answer {
        // From where the last call ended, and round again: an index by deadline would cost every append, and
        // what is late is passed over when it is read.
        let mut count = 0;
        for (table, key) in [("rows", "row"), ("deferred", "list")] {
            let room = u64::from(limit).saturating_sub(count);
            if room == 0 {
                break; // the rest in the next call
            }
            let from = if table == "rows" {
                &mut self.looked.rows
            } else {
                &mut self.looked.deferred
            };
            let sql = format!(
                "select {key}, deadline_ms from {table} where {key} > ? order by {key} limit ?"
            );
            let found: Vec<(i64, i64)> = database
                .statement(&sql)?
                .query_map((*from, room.cast_signed()), |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?
                .collect::<Result<_, _>>()?;
            *from = match found.last() {
                Some(&(last, _)) if found.len() as u64 == room => last,
                _ => 0,
            };
            for (place, deadline_ms) in found {
                if (1..unix_ms).contains(&unsigned(deadline_ms)) {
                    delete(database, &format!("{table} where {key} = ?"), [place])?;
                    count += 1;
                }
            }
        }
        let effect = if count > 0 {
            Effect::Commit
        } else {
            Effect::None
        };
        let marks = self.next_marks(database, limit)?;
        Ok((StoreDone::Expired { count, marks }, effect))
    }

    /// Marks of the deferred list, from where the last call ended, and round again. One that is newer in memory is not
    /// worth writing for this: it comes in another round.
    fn next_marks(
        &mut self,
        database: &Database,
        limit: u32,
    ) -> Result<Vec<(Arc<str>, Mark)>, Failure> {
        let sql = "select node_key, epoch, seq, player from deferred_marks
            where (player, node_key) > (?, ?) order by player, node_key limit ?";
        let (player, sender) = std::mem::take(&mut self.looked.marks);
        let found: Vec<(Arc<str>, Mark)> = database
            .statement(sql)?
            .query_map((player, sender, limit), |row| {
                Ok((row.get::<_, String>(3)?.into(), mark(row)?))
            })?
            .collect::<Result<_, _>>()?;
        if found.len() == limit as usize
            && let Some((player, mark)) = found.last()
        {
            self.looked.marks = (player.to_string(), signed(mark.node_key));
        }
        Ok(found)
    }
}

/// A login of the player was committed.
fn is_known(database: &mut Database, player: &Arc<str>) -> Result<bool, Failure> {
    if let Some(mailbox) = database.memory.players.get(player) {
        return Ok(mailbox.known);
    }
    if !database.exists("select 1 from players where player = ?", [&**player])? {
        return Ok(false);
    }
    if database.memory.players.len() >= USED_PLAYERS || database.memory.marks >= CACHED_MARKS {
        let marks = database.memory.take_dirty();
        database.write_marks(&marks)?;
        database.memory.players.clear();
        database.memory.marks = 0;
    }
    database
        .memory
        .players
        .entry(player.clone())
        .or_default()
        .known = true;
    Ok(true)
}

/// The last id of the sender that was accepted for a player who is remembered.
fn find_mark(
    database: &mut Database,
    list: List,
    player: &Arc<str>,
    sender: u64,
) -> Result<Option<(u64, u64)>, Failure> {
    let known = database
        .memory
        .players
        .get(player)
        .and_then(|mailbox| mailbox.mark(list, sender));
    if let Some(cached) = known {
        return Ok(cached.mark);
    }
    let sql = match list {
        List::Rows => "select epoch, seq from accepted where player = ? and node_key = ?",
        List::Deferred => "select epoch, seq from deferred_marks where player = ? and node_key = ?",
    };
    let found = database
        .statement(sql)?
        .query_row((&**player, signed(sender)), |row| {
            Ok((unsigned(row.get(0)?), unsigned(row.get(1)?)))
        })
        .optional()?;
    Ok(found)
}

/// [20] It has a row, or was handled.
fn repeated(
    database: &mut Database,
    list: List,
    player: &str,
    id: MessageId,
) -> Result<StoreDone, Failure> {
    if list == List::Deferred {
        return Ok(StoreDone::Appended);
    }
    database.write_rows()?;
    let sql = "select 1 from rows where player = ? and node_key = ? and epoch = ? and seq = ?";
    let values = (
        player,
        signed(id.node_key),
        signed(id.epoch),
        signed(id.seq),
    );
    let there = database.exists(sql, values)?;
    Ok(if there {
        StoreDone::Appended
    } else {
        StoreDone::Passed
    })
}

/// Messages and bytes that a mailbox holds, deferred ones included.
fn usage(database: &mut Database, player: &Arc<str>) -> Result<(u64, u64), Failure> {
    let known = database
        .memory
        .players
        .get(player)
        .and_then(|mailbox| mailbox.used);
    if let Some(used) = known {
        return Ok(used);
    }
    // Rows that are held back are counted when they are remembered: nothing of this player is.
    database.write_rows()?;
    let mut used = (0, 0);
    for table in ["rows", "deferred"] {
        let sql = format!(
            "select count(*), coalesce(sum(length(payload)), 0) from {table} where player = ?"
        );
        let (count, size): (u64, u64) =
            database.statement(&sql)?.query_row([&**player], |row| {
                Ok((count_at(row, 0)?, count_at(row, 1)?))
            })?;
        used = (used.0 + count, used.1 + size);
    }
    if let Some(mailbox) = database.memory.players.get_mut(player) {
        mailbox.used = Some(used);
    }
    Ok(used)
}

/// Deletes messages of `what`, and counts off what they held; how many.
pub fn delete(database: &mut Database, what: &str, values: impl Params) -> Result<u64, Failure> {
    let mut freed: Vec<(String, u64)> = Vec::new();
    {
        let sql = format!("delete from {what} returning player, length(payload)");
        let mut statement = database.statement(&sql)?;
        let mut rows = statement.query(values)?;
        while let Some(row) = rows.next()? {
            freed.push((row.get(0)?, count_at(row, 1)?));
        }
    }
    for (player, size) in &freed {
        database.bytes -= size.cast_signed() + ROW_BYTES;
        database.memory.free(player, 1, *size);
    }
    Ok(freed.len() as u64)
}

fn accepted(database: &mut Database, player: &Arc<str>) -> Answer {
    database.settle_marks(player)?;
    let sql = "select node_key, epoch, seq from accepted where player = ? order by node_key";
    let mut statement = database.statement(sql)?;
    let marks = statement
        .query_map([&**player], mark)?
        .collect::<Result<_, _>>()?;
    Ok((StoreDone::Marks { marks }, Effect::None))
}

fn trim(database: &mut Database, op: &StoreOp) -> Answer {
    let StoreOp::Trim {
        player,
        sender,
        epoch,
        seq,
    } = op
    else {
        return Err(Failure::Unavailable("no trim".into()));
    };
    database.settle_marks(player)?;
    let values = (&**player, signed(*sender), signed(*epoch), signed(*seq));
    let mut gone = 0;
    for list in ["accepted", "deferred_marks"] {
        let sql = format!(
            "delete from {list} where player = ? and node_key = ? and (epoch, seq) <= (?, ?)"
        );
        gone += database.execute(&sql, values)?;
    }
    Ok(done(gone > 0))
}

fn read(
    database: &Database,
    player: &str,
    after_row: u64,
    limit: u32,
) -> Result<StoreDone, Failure> {
    let limit = limit.clamp(1, READ_ROWS);
    let mut statement = database.statement(
        "select row, node_key, epoch, seq, deadline_ms, content, payload from rows
         where player = ? and row > ? order by row limit ?",
    )?;
    let mut found = statement.query((player, row_number(after_row), i64::from(limit) + 1))?;
    let (mut rows, mut size): (Vec<Row>, usize) = (Vec::new(), 0);
    while let Some(row) = found.next()? {
        let payload = row.get_ref(6)?.as_blob().unwrap_or_default();
        size += payload.len();
        if rows.len() == limit as usize || (!rows.is_empty() && size > READ_BYTES) {
            return Ok(StoreDone::Rows { rows, end: false });
        }
        rows.push(Row {
            row: count_at(row, 0)?,
            id: MessageId {
                node_key: unsigned(row.get(1)?),
                epoch: unsigned(row.get(2)?),
                seq: unsigned(row.get(3)?),
            },
            deadline_ms: unsigned(row.get(4)?),
            content: content(row.get(5)?),
            payload: payload.into(),
        });
    }
    Ok(StoreDone::Rows { rows, end: true })
}

fn logout(database: &mut Database, player: &Arc<str>, cursor: &[Mark]) -> Answer {
    database.settle_marks(player)?;
    for mark in cursor {
        // [31] marks and deletes are one transaction
        let (key, epoch, seq) = (signed(mark.node_key), signed(mark.epoch), signed(mark.seq));
        let sql =
            "insert into accepted values (?, ?, ?, ?) on conflict (player, node_key) do update
            set epoch = excluded.epoch, seq = excluded.seq
            where (excluded.epoch, excluded.seq) > (accepted.epoch, accepted.seq)";
        database.execute(sql, (&**player, key, epoch, seq))?;
        let what = "rows where player = ? and node_key = ? and (epoch, seq) <= (?, ?)";
        delete(database, what, (&**player, key, epoch, seq))?;
    }
    Ok(done(!cursor.is_empty()))
}

fn know(database: &mut Database, player: &Arc<str>) -> Answer {
    if database
        .memory
        .players
        .get(player)
        .is_some_and(|mailbox| mailbox.known)
    {
        return Ok(done(false));
    }
    let new = database.execute("insert or ignore into players values (?)", [&**player])? > 0;
    Ok(done(new))
}

fn due(database: &mut Database, unix_ms: u64, limit: u32) -> Answer {
    let sql = "select node_key, epoch, seq, list, player from deferred
        where deliver_at_ms <= ? order by deliver_at_ms, list limit ?";
    let due: Vec<(i64, String, MessageId)> = database
        .statement(sql)?
        .query_map((signed(unix_ms), limit), |row| {
            Ok((row.get(3)?, row.get(4)?, mark(row)?))
        })?
        .collect::<Result<_, _>>()?;
    let mut moved = Vec::with_capacity(due.len());
    let mut last = database.meta("last_due")?;
    for (place, player, id) in due {
        last += 1;
        moved.push(Moved {
            player: player.into(),
            id,
            seq: last.cast_unsigned(),
        });
        database.execute(
            "insert into rows (player, node_key, epoch, seq, deadline_ms, content, payload)
             select player, ?, ?, ?, deadline_ms, content, payload from deferred where list = ?",
            (
                signed(DEFERRED_KEY),
                signed(DEFERRED_EPOCH),
                signed(last.cast_unsigned()),
                place,
            ),
        )?;
        database.execute("delete from deferred where list = ?", [place])?;
    }
    if !moved.is_empty() {
        database.set_meta("last_due", last)?;
    }
    let next_ms = next_due(database)?;
    let effect = effect(!moved.is_empty());
    Ok((StoreDone::Due { moved, next_ms }, effect))
}

/// When the first deferred message is due; 0 none.
pub fn next_due(database: &Database) -> Result<u64, Failure> {
    let mut statement = database.statement("select min(deliver_at_ms) from deferred")?;
    let first: Option<i64> = statement.query_row([], |row| row.get(0))?;
    Ok(first.map_or(0, unsigned))
}

/// What the store remembers for a hub that begins.
pub fn opened(database: &Database, hub_epoch: u32, unix_ms: u64) -> Result<StoreDone, Failure> {
    let seen = unix_ms.cast_signed() - (ROSTER_DAYS * 86_400_000).cast_signed();
    // [4a] retired: but its row keeps the epoch
    let sql = "select node_key, name, epoch, linked from roster where linked or seen_ms > ? order by name";
    let roster = database
        .statement(sql)?
        .query_map([seen], |row| {
            Ok(RosterEntry {
                node_key: unsigned(row.get(0)?),
                name: row.get::<_, String>(1)?.into(),
                epoch: unsigned(row.get(2)?),
                linked: row.get(3)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    let groups = database
        .statement("select group_name, player from members order by 1, 2")?
        .query_map([], |row| {
            Ok((
                row.get::<_, String>(0)?.into(),
                row.get::<_, String>(1)?.into(),
            ))
        })?
        .collect::<Result<_, _>>()?;
    let next_due_ms = next_due(database)?;
    Ok(StoreDone::Opened {
        hub_epoch_highest: hub_epoch,
        roster,
        groups,
        next_due_ms,
    })
}
