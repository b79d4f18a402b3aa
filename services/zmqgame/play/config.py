"""The table [game]. Holds tables only: every process imports it."""

from __future__ import annotations

from dataclasses import dataclass

from zmqgame_bus.schema import key, table

HOUR = "no match runs longer than an hour"
AS_RULES_SAY = "0: as the game's rules say."


@table("game")
@dataclass(frozen=True)
class GameConfig:
    """A game server: where clients connect, which rules it runs, how much it takes."""

    listen: str = key(
        "127.0.0.1:7611",
        unit="host:port",
        help="Where clients connect by TCP and WebSocket; port 0 chooses one.",
    )
    udp: str = key(
        "127.0.0.1:7612",
        unit="host:port or empty",
        help="Where clients send inputs by UDP; port 0 chooses one. Empty: no UDP.",
    )
    public_host: str = key(
        "", unit="host", help="The name under which clients reach this server; empty: the host it listens on."
    )
    public_ws: str = key(
        "",
        unit="ws:// or wss:// address",
        help="Where clients reach this server's `listen` when a proxy stands before it, such as"
        " wss://play.example.com/game-1 for one that ends TLS. By TCP they use its host and port, by TLS too"
        " for wss. Empty: `public_host` and the port of `listen`.",
    )
    tls_certificate: str = key(
        "",
        unit="file or empty",
        help="PEM file of the certificate chain: clients connect by TLS and wss. Read again at SIGHUP.",
    )
    tls_key: str = key("", unit="file or empty", help="PEM file of the certificate's private key.")
    proxy_protocol: bool = key(
        False,
        help="Connections come from a proxy and begin with a PROXY protocol header of version 2;"
        " nobody else may reach `listen`, unless `proxies` names the proxies.",
    )
    proxies: tuple[str, ...] = key(
        (),
        unit="networks",
        help="With `proxy_protocol`: networks or addresses of the proxies, as 10.0.0.0/8; who comes from"
        " elsewhere is refused. Empty: everybody who can connect is believed.",
    )
    max_connections_per_address: int = key(
        0,
        unit="connections",
        low=0,
        high=1_000_000,
        reason="a connection takes a descriptor",
        help="From one IPv4 address or IPv6 network of 64 bits, UDP counted too. 0: any number,"
        " since behind one address may be a proxy, or all players of a provider or a school.",
    )
    packets_per_s: int = key(
        500,
        unit="packets",
        low=0,
        high=1_000_000,
        reason="each takes time of the thread that ticks",
        help="From one connection, twice as many at once; a game sends a fifth of it. More wait unread;"
        " datagrams are dropped. 0: any number.",
    )
    bytes_per_s: int = key(
        262_144,
        unit="bytes",
        low=0,
        high=1_073_741_824,
        reason="each is copied",
        help="From one connection, four times as many at once: a client that is back sends up to 1 MiB of"
        " kept actions. More wait unread; datagrams are dropped. 0: any number.",
    )
    rules: str = key(
        "zmqgame.play.drag:DragRace", unit="module:class", help="The game: a subclass of zmqgame.Match."
    )
    max_players: int = key(
        1_000,
        unit="players",
        low=1,
        high=100_000,
        reason="each holds up to 1 MiB of unacked frames",
        help="Sessions this server takes, those within their grace time included.",
    )
    max_matches: int = key(
        250,
        unit="matches",
        low=1,
        high=10_000,
        reason="one tick steps all of them",
        help="Matches at a time.",
    )
    grace_s: float = key(
        60.0,
        unit="s",
        low=0.1,
        high=3_600.0,
        reason="kept frames are memory",
        help="How long a player without a connection may come back and find everything as it was.",
    )
    waiting_ms: int = key(
        0, unit="ms", low=0, high=3_600_000, reason=HOUR, help=f"Until all players are here. {AS_RULES_SAY}"
    )
    ready_ms: int = key(
        0, unit="ms", low=0, high=3_600_000, reason=HOUR, help=f"Until all are ready. {AS_RULES_SAY}"
    )
    cutscene_ms: int = key(
        0, unit="ms", low=0, high=3_600_000, reason=HOUR, help=f"The cutscene's length. {AS_RULES_SAY}"
    )
    countdown_ms: int = key(
        0, unit="ms", low=0, high=3_600_000, reason=HOUR, help=f"The countdown's length. {AS_RULES_SAY}"
    )
    running_ms: int = key(
        0, unit="ms", low=0, high=3_600_000, reason=HOUR, help=f"A match's longest time. {AS_RULES_SAY}"
    )
    disconnect_ms: int = key(
        0,
        unit="ms",
        low=0,
        high=3_600_000,
        reason=HOUR,
        help=f"How long a match waits for a lost player. {AS_RULES_SAY}",
    )
    ping_ms: int = key(
        10_000,
        unit="ms",
        low=500,
        high=20_000,
        reason="a connection without a packet for 30 s is closed",
        help="How often clients send a ping; after 1.5 times as long without an answer they go elsewhere.",
    )
    token_s: int = key(
        300,
        unit="s",
        low=5,
        high=86_400,
        reason="a stolen token must grow old",
        help="How long the token of a welcome may be used to come back; it is renewed at half of that.",
    )
    session_max_s: int = key(
        86_400,
        unit="s",
        low=5,
        high=2_592_000,
        reason="who has read a token must not stay for ever",
        help="How long after the manager's own token a session's tokens are renewed and taken; then the"
        " player's login service has to ask the manager again.",
    )
    checkpoint_ms: int = key(
        1_000,
        unit="ms",
        low=0,
        high=60_000,
        reason="what happened since is undone when the server is killed",
        help="How often the manager gets what another server needs to go on with a match; 0: never.",
    )
    records_keep: int = key(
        1_000,
        unit="matches",
        low=0,
        high=1_000_000,
        reason="a record takes about 10 kB",
        help="How many matches' records (seed, configuration, inputs) stay on disk; the oldest go.",
    )


@table("bots")
@dataclass(frozen=True)
class BotsConfig:
    """Players who play by themselves, for demos, tests and load."""

    count: int = key(
        64, unit="players", low=1, high=10_000, reason="one process sends all their inputs", help="How many."
    )
    prefix: str = key("bot-", unit="start of a name", help="Their names are this and a number.")
    log_dir: str = key(
        "",
        unit="folder",
        help="Where each writes the ids of the bus messages it handles, before it acks them.",
    )
    transport: str = key(
        "ws", choices=("ws", "tcp"), help="How they connect; inputs go by UDP where it is up."
    )
    ca_file: str = key(
        "", unit="file or empty", help="PEM file of the certificates that they trust; empty: the system's."
    )
    spread_ms: int = key(
        1_000,
        unit="ms",
        low=0,
        high=600_000,
        reason="nobody waits longer to see them",
        help="Over how long they log in.",
    )
    seed: int = key(1, low=0, high=2_147_483_648, reason="it is multiplied", help="Of their choices.")
