"""A network namespace with one wire to the machine, for partitions that no proxy can play.

Needs root and `ip`; `Namespace.make` says why it can't be made where these are missing.
"""

import os
import shutil
import subprocess

ADDRESSES = 100
"""How many runs may have a wire at once."""


class NotPermitted(Exception):
    """What the machine does not allow."""


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotPermitted(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Namespace:
    """One namespace, its wire and both addresses."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.outer = f"{name}o"
        self.address = f"10.213.{number}.1"
        self._inner, self._inner_address = f"{name}i", f"10.213.{number}.2"

    @classmethod
    def make(cls) -> "Namespace":
        if shutil.which("ip") is None:
            raise NotPermitted("there is no `ip` command")
        if os.geteuid() != 0:
            raise NotPermitted("network namespaces need root")
        made = cls(f"zc{os.getpid() % 100_000}", os.getpid() % ADDRESSES)
        try:
            _ip("netns", "add", made.name)
            _ip("link", "add", made.outer, "type", "veth", "peer", "name", made._inner, "netns", made.name)
            _ip("addr", "add", f"{made.address}/30", "dev", made.outer)
            _ip("link", "set", made.outer, "up")
            _ip("-n", made.name, "addr", "add", f"{made._inner_address}/30", "dev", made._inner)
            _ip("-n", made.name, "link", "set", made._inner, "up")
            _ip("-n", made.name, "link", "set", "lo", "up")
        except NotPermitted:
            made.close()
            raise
        return made

    def command(self, argv: list[str]) -> list[str]:
        """The same command inside; `ip` becomes it, so its process id is the command's."""
        return ["ip", "netns", "exec", self.name, *argv]

    def part(self) -> None:
        """Take the wire away: no reset, no answer, nothing."""
        _ip("link", "set", self.outer, "down")

    def join(self) -> None:
        _ip("link", "set", self.outer, "up")

    def close(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self.outer], capture_output=True, check=False)
