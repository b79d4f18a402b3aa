"""The message bus of zmqgame: `Node` for processes on it; the hub is the program `zmqgame-hub`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zmqgame_bus.node import Node

__all__ = ["Node"]


def __getattr__(name: str) -> Any:
    """Load the node when it is asked for: configuration and errors alone need no ZeroMQ."""
    if name == "Node":
        from zmqgame_bus.node import Node

        return Node
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
