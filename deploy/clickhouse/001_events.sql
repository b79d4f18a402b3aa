-- Events of every service. Each table begins with the same four columns: (source, epoch, seq) names an event for ever,
-- time is its source's clock. What an event has beyond a table's columns stands in `extra` as JSON.
-- Not partitioned: so one insert is one part, and a batch is in a table as a whole or not at all.
-- non_replicated_deduplication_window: a batch that is repeated after a crash is dropped by its token (default: off).
-- fsync_*: what was inserted survives a loss of power, since the source's copy is removed after it (default: off).

CREATE TABLE IF NOT EXISTS sessions
(
    source LowCardinality(String),
    epoch  UInt64,
    seq    UInt64,
    time   DateTime64(6, 'UTC'),
    event  LowCardinality(String) COMMENT 'login, logout or resume',
    player String,
    server LowCardinality(String),
    extra  String
)
ENGINE = MergeTree ORDER BY (source, epoch, seq)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS matches
(
    source  LowCardinality(String),
    epoch   UInt64,
    seq     UInt64,
    time    DateTime64(6, 'UTC'),
    match   String,
    server  LowCardinality(String),
    event   LowCardinality(String) COMMENT 'created, started, finished or aborted',
    players UInt32,
    reason  String,
    extra   String
)
ENGINE = MergeTree ORDER BY (source, epoch, seq)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS finishes
(
    source   LowCardinality(String),
    epoch    UInt64,
    seq      UInt64,
    time     DateTime64(6, 'UTC'),
    match    String,
    player   String,
    car      LowCardinality(String),
    place    UInt16,
    time_ms  Float64,
    trap_kmh Float64,
    extra    String
)
ENGINE = MergeTree ORDER BY (source, epoch, seq)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS messages
(
    source     LowCardinality(String),
    epoch      UInt64,
    seq        UInt64,
    time       DateTime64(6, 'UTC'),
    id         String COMMENT 'the message id on the bus',
    sender     LowCardinality(String),
    recipient  String,
    kind       LowCardinality(String) COMMENT 'unicast, multicast or broadcast',
    outcome    LowCardinality(String) COMMENT 'delivered, stored, dropped, refused or unknown',
    latency_ms Float64,
    extra      String
)
ENGINE = MergeTree ORDER BY (source, epoch, seq)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS ticks
(
    source LowCardinality(String),
    epoch  UInt64,
    seq    UInt64,
    time   DateTime64(6, 'UTC'),
    server LowCardinality(String),
    match  String,
    count  UInt32 COMMENT 'ticks in this window',
    p50_us UInt32,
    p99_us UInt32,
    max_us UInt32,
    late   UInt32 COMMENT 'ticks that began late',
    extra  String
)
ENGINE = MergeTree ORDER BY (source, epoch, seq)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1;
