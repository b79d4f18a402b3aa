"""The mailbox: what every store must do (BUS.md sections 2, 3, 5; rules 20 to 24).

The hub issues batches of operations and confirms nothing before `run` returned. A store is used by
one thread. An operation is a tuple whose first item is its name, because that is what crosses the
border from Rust; a result is a tuple as well::

    operation                                         result
    ("open", hub_epoch, unix_ms)                      ("opened", highest, roster, groups)
    ("append", player, node_key, epoch, seq,          ("appended",) or ("unknown_player",) or ("full",)
               deadline_ms, content, payload)
    ("read", player, after_row, limit)                ("rows", rows, end)
    ("accepted", player)                              ("marks", marks)
    ("settle", player, up_to_row)                     ("done",)
    ("logout", player, cursor)                        ("done",)
    ("trim", player, node_key, epoch, seq)            ("done",)
    ("know", player)                                  ("done",)
    ("join", group, player)                           ("done",) or ("unknown_player",)
    ("leave", group, player)                          ("done",)
    ("roster", node_key, name, epoch, linked)         ("done",)

`highest` is the highest hub epoch in the store, the claim of this operation included; the roster leaves out
nodes that are retired. `open` with an epoch that is not above every other raises Replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

Operation: TypeAlias = tuple[Any, ...]
Result: TypeAlias = tuple[Any, ...]

__all__ = ["Mailbox", "Operation", "Result", "open_mailbox"]


class Mailbox(Protocol):
    """A durable store of messages, marks, known players, group members and the roster of nodes."""

    def highest_epoch(self) -> int:
        """Return the highest hub epoch that was ever claimed in this store, 0 if none."""

    def run(self, operations: Sequence[Operation]) -> list[Result]:
        """Run a batch in order and make it durable; one result for each operation.

        Raises StoreUnavailable when nothing may be confirmed (the hub issues the batch again later),
        Replaced when another hub has claimed the store (the process must end).
        """

    def close(self) -> None:
        """Release the store."""


def open_mailbox(
    url: str,
    *,
    durability: str = "power-loss",
    max_bytes: int = 16 << 30,
    on_wait: Callable[[str], bool] | None = None,
) -> Mailbox:
    """Open the store that `url` names: `sqlite:PATH`.

    `on_wait(reason)` is called while another process holds the store; it returns False to give up.
    """
    from .errors import StoreUnavailable
    from .sqlite import SqliteMailbox

    kind, _, rest = url.partition(":")
    if kind == "sqlite" and rest:
        return SqliteMailbox(
            rest.removeprefix("//"), durability=durability, max_bytes=max_bytes, on_wait=on_wait
        )
    raise StoreUnavailable(f"mailbox {url!r} is not supported: write sqlite:PATH")
