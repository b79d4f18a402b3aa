//! What operators ask, in JSON: list, show, purge, sizes, sums; and what an import brings (zmqgame_bus.mailbox has the table).

use crate::Failure;
use crate::batch::delete;
use crate::database::Database;
use crate::schema::{row_number, signed, unsigned};
use serde_json::{Value, json};
use std::fmt::Write;
use zmqgame_core::bus::hub::trace::hash;
use zmqgame_core::bus::message::MessageId;

const LIST: &str = "
select player, sum(later = 0), sum(bytes), sum(later), min(row) from (
    select player, length(payload) as bytes, 0 as later, row from rows where player >= ?1
    union all select player, length(payload), 1, null from deferred where player >= ?1)
group by player order by player limit ?2";

const SHOW: &str = "
select row, node_key, epoch, seq, deadline_ms, content, length(payload), payload
from rows where player = ? and row > ? order by row limit ?";

const TAKE_IN: &str = "
insert into deferred_marks values (?, ?, ?, ?) on conflict (player, node_key) do update
set epoch = excluded.epoch, seq = excluded.seq
where (excluded.epoch, excluded.seq) > (deferred_marks.epoch, deferred_marks.seq)";

/// Rows of an answer if the question names no number.
const LIMIT: i64 = 100;

/// The answer, and whether something was changed.
pub fn admin(database: &mut Database, question: &str) -> Result<(String, bool), Failure> {
    database.write_all()?;
    let asked: Value = serde_json::from_str(question).unwrap_or_default();
    let text = |name: &str| asked[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| asked[name].as_u64();
    let limit = asked["limit"].as_i64().unwrap_or(LIMIT);
    let player = text("player");
    let mut changed = true;
    let answer = match asked["op"].as_str().unwrap_or_default() {
        "list" => {
            changed = false;
            list(database, &text("from"), limit)?
        }
        "show" => {
            changed = false;
            let after = row_number(number("after").unwrap_or(0));
            show(
                database,
                &player,
                after,
                limit,
                asked["payload"].as_bool().unwrap_or_default(),
            )?
        }
        "sizes" => {
            changed = false;
            sizes(database)?
        }
        "sums" => {
            changed = false;
            sums(database)?
        }
        "purge" => {
            let up_to = row_number(number("up_to").unwrap_or(u64::MAX));
            let purged = delete(
                database,
                "rows where player = ? and row <= ?",
                (&player, up_to),
            )?;
            let deferred = match asked["deferred"].as_bool() {
                Some(true) => delete(database, "deferred where player = ?", [&player])?,
                _ => 0,
            };
            json!({"purged": purged, "deferred": deferred})
        }
        "take_in" => {
            let [key, epoch, seq] =
                ["node_key", "epoch", "seq"].map(|name| signed(number(name).unwrap_or(0)));
            database.settle_marks(&player.as_str().into())?;
            database.execute(TAKE_IN, (&player, key, epoch, seq))?;
            json!({})
        }
        "take_in_due" => {
            let last = row_number(number("last_due").unwrap_or(0));
            let sql = "update meta set value = max(value, ?) where name = 'last_due'";
            database.execute(sql, [last])?;
            json!({})
        }
        other => {
            changed = false;
            json!({"error": format!("a mailbox has no operation '{other}'")})
        }
    };
    Ok((answer.to_string(), changed))
}

fn list(database: &Database, from: &str, limit: i64) -> Result<Value, Failure> {
    let mut statement = database.statement(LIST)?;
    let entries = statement.query_map((from, limit), |row| {
        Ok(json!({
            "player": row.get::<_, String>(0)?, "messages": row.get::<_, i64>(1)?,
            "bytes": row.get::<_, i64>(2)?, "deferred": row.get::<_, i64>(3)?,
            "first_row": row.get::<_, Option<i64>>(4)?,
        }))
    })?;
    Ok(Value::Array(entries.collect::<Result<_, _>>()?))
}

fn show(
    database: &Database,
    player: &str,
    after: i64,
    limit: i64,
    payload: bool,
) -> Result<Value, Failure> {
    let mut statement = database.statement(SHOW)?;
    let entries = statement.query_map((player, after, limit), |row| {
        let text = match payload {
            true => Value::String(hexadecimal(row.get_ref(7)?.as_blob().unwrap_or_default())),
            false => Value::Null,
        };
        Ok(json!({
            "row": row.get::<_, i64>(0)?, "node_key": unsigned(row.get(1)?),
            "epoch": unsigned(row.get(2)?), "seq": unsigned(row.get(3)?),
            "deadline_ms": unsigned(row.get(4)?), "content": row.get::<_, i64>(5)?,
            "bytes": row.get::<_, i64>(6)?, "payload": text,
        }))
    })?;
    Ok(Value::Array(entries.collect::<Result<_, _>>()?))
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02X}");
    }
    text
}

fn sizes(database: &Database) -> Result<Value, Failure> {
    let mut statement = database.statement("select count(*), sum(length(payload)) from rows")?;
    let (messages, bytes): (i64, Option<i64>) =
        statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut statement = database.statement("select count(*) from deferred")?;
    let deferred: i64 = statement.query_row([], |row| row.get(0))?;
    Ok(json!({"messages": messages, "bytes": bytes.unwrap_or(0), "deferred": deferred}))
}

/// Counts and sums of hashed ids by sender, in the order of keys: see zmqgame_bus.sums.
fn sums(database: &Database) -> Result<Value, Failure> {
    let mut statement =
        database.statement("select node_key, epoch, seq from rows order by node_key")?;
    let mut rows = statement.query([])?;
    let mut all: Vec<(u64, u64, u64)> = Vec::new();
    while let Some(row) = rows.next()? {
        let (node_key, epoch, seq) = (
            unsigned(row.get(0)?),
            unsigned(row.get(1)?),
            unsigned(row.get(2)?),
        );
        let sum = hash(MessageId {
            node_key,
            epoch,
            seq,
        });
        match all.last_mut() {
            Some(last) if last.0 == node_key => {
                (last.1, last.2) = (last.1 + 1, last.2.wrapping_add(sum));
            }
            _ => all.push((node_key, 1, sum)),
        }
    }
    let entry = |&(key, messages, id_sum): &(u64, u64, u64)| json!({"sender": format!("0x{key:016x}"), "messages": messages, "id_sum": id_sum});
    Ok(Value::Array(all.iter().map(entry).collect()))
}
