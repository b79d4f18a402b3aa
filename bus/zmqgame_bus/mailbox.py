"""The mailbox: what every store must do (BUS.md sections 2, 3, 5; rules 20 to 24).

The hub issues batches of operations and confirms nothing before `run` returned. A store is used by
one thread. An operation is a tuple whose first item is its name, because that is what crosses the
border from Rust; a result is a tuple as well::

    operation                                         result
    ("open", hub_epoch, unix_ms)                      ("opened", highest, roster, groups, next_due_ms)
    ("append", player, node_key, epoch, seq,          ("appended",), ("passed",), or refused:
               deadline_ms, content, payload, first)  ("unknown_player",), ("full",),
                                                      ("over_quota", messages, bytes)
    ("defer", player, node_key, epoch, seq,           as append
              deliver_at_ms, deadline_ms, content, payload, first)
    ("due", unix_ms, limit)                           ("due", moved, next_due_ms)
    ("expire", unix_ms, limit)                        ("expired", count, marks)
    ("admin", json)                                   ("text", json)
    ("read", player, after_row, limit)                ("rows", rows, end)
    ("accepted", player)                              ("marks", marks)
    ("settle", player, up_to_row)                     ("done",)
    ("logout", player, cursor)                        ("done",)
    ("trim", player, node_key, epoch, seq)            ("done",)
    ("know", player)                                  ("done",)
    ("join", group, player)                           ("done",) or ("unknown_player",)
    ("leave", group, player)                          ("done",)
    ("roster", node_key, name, epoch, linked)         ("done",)

`append` inserts nothing for an id at or below the mark in `accepted`, and still answers `appended` [20], or
`passed` if it can tell that no row has that id. `defer` does so with marks of its own; `trim` ends both.
`first`: the message was not sent before, so quota and `max_bytes` count; nothing else is refused for them
[35]. A refusal holds for the rest of the batch: what follows of that sender to that player and is no repeat
gets the same answer, or else a later message would be in before a refused one. `due` moves deferred
messages whose time has come into the rows, oldest first, each under the id (DEFERRED_KEY, 1, n), n counted
for ever [37]; `moved` has (player, node_key, epoch, seq, n) of each. `next_due_ms` is when the next one is
due, 0 for none. `expire` deletes rows whose deadline is past, looking at no more than `limit` [34]; `marks`
are some of the deferred list, (player, node_key, epoch, seq), others each time and all of them over time: the
hub trims those whose sender is done with them. Times are unix ms.

`admin` asks in JSON, for operators::

    {"op": "list", "from": PLAYER, "limit": N}       [{player, messages, bytes, deferred, first_row}]
    {"op": "show", "player": PLAYER, "after": ROW,   [{row, node_key, epoch, seq, deadline_ms, content, bytes,
     "limit": N, "payload": BOOL}                      payload}], the payload as hexadecimal or null
    {"op": "purge", "player": PLAYER,                {purged, deferred}
     "up_to": ROW, "deferred": BOOL}
    {"op": "sizes"}                                  {messages, bytes, deferred}
    {"op": "sums"}                                   [{sender, messages, id_sum}]: see zmqgame_bus.sums
    {"op": "take_in"} and {"op": "take_in_due"}      for an import: see zmqgame_bus.moving

`highest` is the highest hub epoch in the store, the claim of this operation included; the roster leaves out
nodes that are retired. `open` with an epoch that is not above every other raises Replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from .config import Config

Operation: TypeAlias = tuple[Any, ...]
Result: TypeAlias = tuple[Any, ...]

__all__ = ["DEFERRED_KEY", "Mailbox", "Operation", "Result", "open_configured", "open_mailbox", "shown_url"]

DEFERRED_KEY: Final = 0xDBBCBBECE325734A
"""The node key of the name `deferred`, the sender of what was deferred and is due: no node may have it."""


class Mailbox(Protocol):
    """A durable store of messages, marks, known players, group members and the roster of nodes."""

    def highest_epoch(self) -> int:
        """Return the highest hub epoch that was ever claimed in this store, 0 if none."""

    def run(self, operations: Sequence[Operation]) -> list[Result]:
        """Run a batch in order and make it durable; one result for each operation.

        Raises StoreUnavailable when nothing may be confirmed (the hub issues the batch again later),
        Replaced when another hub has claimed the store (the process must end).
        """

    def holder(self) -> int:
        """Return the epoch of a hub that seems to have the store, 0 if none or if a lock tells."""

    def ask(self, question: str) -> str:
        """Answer a question of operators, without a claim if it changes nothing."""

    def export(self) -> Iterator[dict[str, Any]]:
        """Give all that the store holds, in an order in which it can be taken in again.

        First ``{"hub_epoch", "last_due"}``, then one entry a player, membership, node, row, mark, deferred
        message and deferred mark. Rows of a player come in order. No hub may use the store meanwhile.
        """

    def close(self) -> None:
        """Release the store."""


def shown_url(url: str) -> str:
    """The URL without user, password and options, for people and logs."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    # From the last @ on: a secret that is not escaped may hold any sign.
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def open_configured(
    config: Config,
    state_dir: Path,
    *,
    url: str = "",
    on_wait: Callable[[str], bool] | None = None,
) -> Mailbox:
    """Open the store of the configuration, or the one that `url` names with the rest of the configuration.

    A relative path is one below `state_dir`; the password of a database comes from the file that is named.
    """
    from .keys import Keyring, read_text_secret
    from .tables import MailboxConfig

    table = config.table(MailboxConfig)
    chosen = url or table.url
    path = chosen.removeprefix("sqlite:")
    if path != chosen and not url and not path.startswith("/"):
        chosen = f"sqlite:{state_dir / path}"
    password = None
    if table.password_file and chosen.startswith("mongodb"):
        password = read_text_secret(Keyring(config).locate(table.password_file))
    return open_mailbox(
        chosen,
        durability=table.durability,
        max_bytes=table.max_bytes,
        player_messages=table.player_messages,
        player_bytes=table.player_bytes,
        password=password,
        on_wait=on_wait,
    )


def open_mailbox(
    url: str,
    *,
    durability: str = "power-loss",
    max_bytes: int = 16 << 30,
    player_messages: int = 0,
    player_bytes: int = 0,
    password: str | None = None,
    on_wait: Callable[[str], bool] | None = None,
) -> Mailbox:
    """Open the store that `url` names: `sqlite:PATH`, `mongodb://HOST/DATABASE` or `mongodb+srv://...`.

    What a document database confirms is always with its majority and in its journal, whatever `durability`.
    `on_wait(reason)` is called while another process holds the store; it returns False to give up.
    """
    from .errors import StoreUnavailable

    if url.startswith(("mongodb://", "mongodb+srv://")):
        from .mongo import MongoMailbox  # its driver takes a while to load

        return MongoMailbox(
            url,
            max_bytes=max_bytes,
            player_messages=player_messages,
            player_bytes=player_bytes,
            password=password,
        )
    kind, _, rest = url.partition(":")
    if kind == "sqlite" and rest:
        from .sqlite import SqliteMailbox

        return SqliteMailbox(
            rest.removeprefix("//"),
            durability=durability,
            max_bytes=max_bytes,
            player_messages=player_messages,
            player_bytes=player_bytes,
            on_wait=on_wait,
        )
    raise StoreUnavailable(f"mailbox {kind!r} is not supported: write sqlite:PATH or mongodb://HOST/DATABASE")
