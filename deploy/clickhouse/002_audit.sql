-- What the audit needs: events that fit no table, numbers that a source lost for good, and all events in one table.

CREATE TABLE IF NOT EXISTS rejected
(
    source     LowCardinality(String),
    epoch      UInt64,
    seq        UInt64,
    time       DateTime64(6, 'UTC') COMMENT 'of the event, or 1970 if it has none',
    table_name String,
    reason     String,
    body       String,
    extra      String
)
ENGINE = MergeTree ORDER BY (source, epoch, seq)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS lost
(
    source LowCardinality(String),
    epoch  UInt64,
    first  UInt64,
    last   UInt64,
    reason String
)
ENGINE = MergeTree ORDER BY (source, epoch, first)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1;

-- Every event of every table; the table's name is in _table. A table added later is added here by a later file.
CREATE TABLE IF NOT EXISTS events
(
    source LowCardinality(String),
    epoch  UInt64,
    seq    UInt64,
    time   DateTime64(6, 'UTC')
)
ENGINE = Merge(currentDatabase(), '^(sessions|matches|finishes|messages|ticks|rejected)$');

-- Names this set of tables, so that a progress file that belongs to another one is noticed.
CREATE TABLE IF NOT EXISTS installation
(
    id UUID
)
ENGINE = MergeTree ORDER BY tuple()
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
INSERT INTO installation SELECT generateUUIDv4() WHERE (SELECT count() FROM installation) = 0;
