//! Tables, and numbers as they are kept.

/// The version that `meta` names: 1 had no log of batches, and opens as it is.
pub const FORMAT: i64 = 2;

pub const SCHEMA: &str = "
create table if not exists meta (name text primary key, value integer not null) without rowid;
create table if not exists rows (
    row integer primary key autoincrement,
    player text not null, node_key integer not null, epoch integer not null, seq integer not null,
    deadline_ms integer not null, content integer not null, payload blob not null);
create index if not exists rows_of_player on rows (player, row);
create table if not exists accepted (
    player text not null, node_key integer not null, epoch integer not null, seq integer not null,
    primary key (player, node_key)) without rowid;
create table if not exists deferred (
    list integer primary key autoincrement, deliver_at_ms integer not null,
    player text not null, node_key integer not null, epoch integer not null, seq integer not null,
    deadline_ms integer not null, content integer not null, payload blob not null);
create index if not exists deferred_by_time on deferred (deliver_at_ms, list);
create index if not exists deferred_of_player on deferred (player);
create table if not exists deferred_marks (
    player text not null, node_key integer not null, epoch integer not null, seq integer not null,
    primary key (player, node_key)) without rowid;
create table if not exists players (player text primary key) without rowid;
create table if not exists members (
    group_name text not null, player text not null, primary key (group_name, player)) without rowid;
create table if not exists roster (
    node_key integer primary key, name text not null, epoch integer not null, linked integer not null,
    seen_ms integer not null);
insert or ignore into meta values ('format', 1), ('hub_epoch', 0), ('bytes', 0), ('last_due', 0), ('log', 0);
create view if not exists mailbox_view as
    select row, player, node_key, epoch + 9223372036854775807 + 1 as epoch,
           seq + 9223372036854775807 + 1 as seq, length(payload) as bytes from rows;
";

const BIAS: u64 = 1 << 63;

/// A u64 as a column that keeps its order.
pub const fn signed(value: u64) -> i64 {
    (value ^ BIAS).cast_signed()
}

/// And back.
pub const fn unsigned(value: i64) -> u64 {
    value.cast_unsigned() ^ BIAS
}

/// A row number from outside: none is above 2^63.
pub const fn row_number(value: u64) -> i64 {
    if value < BIAS {
        value.cast_signed()
    } else {
        i64::MAX
    }
}
