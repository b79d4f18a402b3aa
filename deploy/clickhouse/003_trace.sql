-- Where messages are. `hops`: each step of a message that was stored, asked for, or sampled. `hop_sums`: of all
-- messages, how many by sender, host and second, and the wrapping sum of the hash of their ids.

CREATE TABLE IF NOT EXISTS hops
(
    source LowCardinality(String),
    epoch  UInt64,
    seq    UInt64,
    time   DateTime64(6, 'UTC') COMMENT 'when it was emitted; at_us says when it was',
    at_us  UInt64 COMMENT 'microseconds since 1970, by the clock of the process that saw it',
    id     String COMMENT 'the message id on the bus, the sender as its key: 0xKEY/EPOCH/SEQ',
    hop    LowCardinality(String) COMMENT 'accepted, stored, sent, handed, client acked, acked, expired, dropped, refused, busy or passed',
    place  LowCardinality(String) COMMENT 'the process that saw it',
    player String,
    node   LowCardinality(String) COMMENT 'the sender''s node when accepted, else the host of the player',
    row    UInt64 COMMENT 'the row of the mailbox that it came from, 0 if from none',
    detail String,
    extra  String,
    INDEX by_id id TYPE bloom_filter(0.01) GRANULARITY 4
)
ENGINE = MergeTree ORDER BY (source, epoch, seq)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS hop_sums
(
    source   LowCardinality(String),
    epoch    UInt64,
    seq      UInt64,
    time     DateTime64(6, 'UTC'),
    second   UInt64 COMMENT 'seconds since 1970',
    kind     LowCardinality(String) COMMENT 'delivered and stored: told to senders by the hub; taken: rows that a host has acked; handled: by the players of a host',
    sender   LowCardinality(String) COMMENT 'the key of the sender''s name',
    name     LowCardinality(String) COMMENT 'its name, where it is known',
    host     LowCardinality(String),
    messages UInt64 COMMENT 'one a recipient',
    id_sum   UInt64 COMMENT 'wraps at 2^64',
    extra    String
)
ENGINE = MergeTree ORDER BY (source, epoch, seq)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1;

-- Both hold events, so they belong to the table of all.
DROP TABLE IF EXISTS events;
CREATE TABLE IF NOT EXISTS events
(
    source LowCardinality(String),
    epoch  UInt64,
    seq    UInt64,
    time   DateTime64(6, 'UTC')
)
ENGINE = Merge(currentDatabase(), '^(sessions|matches|finishes|messages|ticks|rejected|hops|hop_sums)$');
