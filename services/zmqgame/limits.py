"""All limits of the services, each with its reason. What happens when one is reached stands beside it."""

MAX_NAME_BYTES = 128  # the bus's own limit for names; a longer one is refused at login
MAX_TOKEN_BYTES = 4_096  # a signed token is about 250 bytes; refused before it is parsed
MAX_LOGIN_BYTES = 16_384  # token plus a cursor of 64 senders; a larger login packet is refused
KNOWN_LOGINS = 65_536  # players whose newest login a server remembers, 10 MB; then the oldest go
MAX_CURSOR_ENTRIES = 64  # the bus's limit of senders in a cursor; a longer one is refused at login
MAX_ACTION_BYTES = 4_096  # an action is a decision of a player, not a data transfer; refused
MAX_INPUTS_PER_PACKET = 32  # 0.64 s of a 50 Hz game: enough to bridge a lost half second; the rest is refused
MAX_INPUT_BYTES = 256  # of one frame of one player; checked when a game is loaded
INPUT_WINDOW_FRAMES = 32  # how far ahead of the match an input may be; earlier ones are dropped and counted
INPUT_REPEAT_FRAMES = 25  # half a second of repeating the last input; after that the neutral one is used
KEPT_FRAMES = 1_024  # unacked frames of one session; over it the session ends (its bus messages go back)
KEPT_BYTES = 1_048_576  # the same in bytes: the bus's own bound for one player's queue
ACTIONS_PER_SECOND = 50  # one a tick; over it an action is refused with the limit's name
ACTION_BURST = 100  # a client that resumes sends what it has kept at once
INPUT_PACKETS_PER_SECOND = 200  # four a tick; over it input packets are dropped and counted
INPUT_BURST = 400  # a link that stalled hands over two seconds at once
LOOSE_BYTES_PER_SECOND = (
    262_144  # of `latest` and `droppable` messages to one player; over it they are dropped
)
LOOSE_BYTES_BURST = 1_048_576  # the largest bus message once; what a client's connection may have waiting
MAX_UNACKED_ACTIONS = 256  # in the client library; over it `action` waits
MAX_PENDING_LOGINS = 1_024  # connections that have not logged in yet; over it new ones are closed
LOGIN_TIMEOUT_MS = 5_000  # a connection that says nothing is not kept open
ATTACH_TIMEOUT_MS = 15_000  # a login that the bus doesn't answer (hub away) is refused, to be tried again
MAX_MATCH_PLAYERS = 64  # results, records and snapshots of a match are built in one piece
MAX_MATCH_MS = 3_600_000  # no match runs longer than an hour, whatever its rules say
MAX_EVENT_BYTES = 60_000  # an event or snapshot must fit into one client packet of 64 KiB
MAX_RECORD_ENTRIES = 1_000_000  # input changes and actions of one match; over it the record is marked cut
MAX_CATCH_UP_TICKS = 5  # after a stall: more would make the stall longer; the rest is skipped and counted
TICK_WINDOW = 500  # ticks in one percentile: ten seconds of 50 Hz
MAX_MATCH_CONFIG_BYTES = 65_536  # goes to a game server with each match; a longer one is refused at start
MAX_QUEUE = 100_000  # tickets in the manager's queue; over it `queue` is refused
MAX_SERVERS = 4_096  # game servers a manager knows; over it a new one is refused
MAX_OPEN_MATCHES = 65_536  # matches a manager follows; over it none is made until some end
MAX_LOG_TEXT_BYTES = 65_536  # one entry of the event log; a longer one is refused
STATS_RANGES_MAX = (
    1_000  # holes in the numbers of one epoch; over it later events wait in their spool until asked for
)
STATS_SOURCES_MAX = 4_096  # sources that stats follows; the frames of a further one are refused and counted
STATS_EPOCHS_KEPT = 64  # finished epochs of a source that are remembered; frames of older ones are refused
STATS_EPOCHS_MAX = 1_088  # what a source can announce (the spool's own limit) and the finished ones
STATS_PLAN_BYTES = 16_777_216  # one batch: what is inserted again after a crash, and held in memory twice
STATS_QUERY_BYTES = 65_536  # the text of one SQL query; refused
STATS_RESULT_BYTES = (
    900_000  # the result of one SQL query: it travels as one bus payload of at most 1 MiB; refused
)
STATS_QUERIES_WAITING = 16  # SQL queries that wait for their turn; over it a query is refused
CHECKPOINT_BYTES = 600_000  # of one match, compressed: base64 of it fits one bus payload; over it: no restore
CHECKPOINT_PARTS = 4_096  # of one match: an hour of one a second; over it the match sends all of it anew
CHECKPOINTS_BYTES = 134_217_728  # all matches at the manager: 2,000 busy ones; over it there is no restore
CHECKPOINT_BATCH_BYTES = 500_000  # in one request, which is one bus payload; the rest in the next
REPLAY_STEPS_PER_TICK = 500  # of restored matches together: a few ms, so that the others keep time
RESTORE_WAIT_MS = 5_000  # a restored match stands still until its players are back, at most so long
HANDOVER_BYTES = 900_000  # kept frames of one session in one bus payload; over it the session is not moved
HANDOVERS_AT_ONCE = 32  # sessions under way to other servers: what both ends hold twice; the rest waits
HANDOVER_S = 2.5  # a server that stops moves what it can in this time; the rest is told to log in elsewhere
FAULT_PACKETS = 16_384  # under way in a simulated network: over it a stream breaks and datagrams are lost
TURN_PACKETS = 256  # of clients, looked at between two ticks: a few ms; the rest waits for the next turn
REFUSAL_LINES_PER_SECOND = 20  # in the log; more are counted: a flood must not fill the disk
REFUSAL_LINES_BURST = 100  # a wave of clients with old tokens may be seen one by one
EDGE_INBOUND_BYTES = 1_048_576  # packets of all clients, not looked at yet: what a tick takes, not a stall
EDGE_OUTBOUND_BYTES = 4_194_304  # to one client that does not read: four bus messages; it is closed
EDGE_PACKETS_BURST_S = 2  # a link that stalled hands over two seconds at once; more waits unread
EDGE_BYTES_BURST_S = 4  # 1 MiB by default: the 256 actions of 4 KiB that a client keeps; more waits unread
HANDOVER_LINGER_S = 2.0  # after that a server that stops leaves the bus, also if moved clients never came
