//! Every limit of the core with its reason, checked before anything is allocated.

/// Bytes of a name (player, group, node, service): long enough for a UUID with a prefix, short enough to intern.
pub const MAX_NAME_BYTES: usize = 128;
/// Bytes of the key of a `latest` message: names what it replaces, so the size of a name.
pub const MAX_KEY_BYTES: usize = 128;
/// Bytes of a reason or detail: one line for a person.
pub const MAX_TEXT_BYTES: usize = 512;
/// Bytes of one message on the bus, header included: one may not hold a link of 1 Gbit/s for more than 10 ms.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Bytes of one payload: a message less room for its header, its names and 4,096 targets.
pub const MAX_PAYLOAD_BYTES: usize = MAX_MESSAGE_BYTES - (64 << 10);
/// Bytes after which a writer closes a frame; so a frame has at most this much and one message.
pub const FRAME_TARGET_BYTES: usize = 1 << 20;
/// Bytes of one frame: the target and one message on top.
pub const MAX_FRAME_BYTES: usize = FRAME_TARGET_BYTES + MAX_MESSAGE_BYTES;
/// Bytes of an unfinished frame that are a sign of life. Who sends less in the time after which a silent link is dead is
/// as good as dead: so a frame ends, whole or with its link, after 2,048 such times at most.
pub const LIFE_BYTES: usize = 1 << 10;
/// Items of a list in one message: bounds the work of one message; longer lists are cut into messages.
pub const MAX_LIST_ITEMS: usize = 4_096;
/// Roles of a node: each is a service it serves.
pub const MAX_ROLES: usize = 64;
/// Senders in a player's cursor: 24 bytes each that travel with every attach and logout.
pub const MAX_CURSOR_SENDERS: usize = 64;
/// Recipients that a group report names; the rest is counted.
pub const MAX_REPORT_ENTRIES: usize = 1_000;

const _: () = assert!(MAX_PAYLOAD_BYTES + MAX_LIST_ITEMS * 12 + 1_024 <= MAX_MESSAGE_BYTES);
const _: () = assert!(MAX_LIST_ITEMS * (MAX_NAME_BYTES + 4 + 24) < MAX_MESSAGE_BYTES);
const _: () =
    assert!(MAX_REPORT_ENTRIES * (MAX_NAME_BYTES + MAX_TEXT_BYTES + 9) < MAX_MESSAGE_BYTES);
const _: () = assert!(MAX_REPORT_ENTRIES <= MAX_LIST_ITEMS && MAX_ROLES <= MAX_LIST_ITEMS);

/// Cars in one race: more lanes than anybody watches, and a snapshot stays under 4 KB.
pub const MAX_RACE_CARS: usize = 64;
/// Length of a track: four miles; longer ones are another game.
pub const MAX_RACE_DISTANCE_M: f64 = 6_500.0;
/// Ticks a second: below it, a change of gear would be a matter of luck...
pub const MIN_RACE_TICK_HZ: u32 = 10;
/// ...and above it, a tick has no time for its match.
pub const MAX_RACE_TICK_HZ: u32 = 1_000;
/// Sub-steps a second: an error of the integration under 1 in 10,000.
pub const MIN_RACE_SUBSTEPS_HZ: u32 = 400;
/// Gears of a car: a lorry has twelve.
pub const MAX_GEARS: usize = 12;
/// Points of a torque curve: a line a pixel would be no better.
pub const MAX_CURVE_POINTS: usize = 64;
/// How long the search for the best run waits for a car: three minutes for a quarter mile is walking.
pub const MAX_SHIFT_RUN_S: u32 = 180;
