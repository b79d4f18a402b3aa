"""Ports that tests choose, for processes that must know an address before its owner has started, or keep it
over a restart. Everywhere else a server listens on port 0 and says what it got.
"""

import socket

_held = []


def free_port():
    """A port that stays ours until this process ends.

    It is bound and never listened on: the system gives it to nobody who asks for any port, and a server,
    which sets SO_REUSEADDR, may still listen on it.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    _held.append(holder)
    return holder.getsockname()[1]


def free_endpoint():
    """The same as an address of ZeroMQ."""
    return f"tcp://127.0.0.1:{free_port()}"
