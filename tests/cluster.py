"""Real processes for integration tests: hub, game servers, manager, bots, on loopback and ephemeral ports.

Each gets its own folder and log below one temporary folder; `kill` is kill -9. Nothing here waits without a
deadline.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from zmqgame_bus.keys import new_secret

from tests.waiting import until as until

READY_S = 60.0
MODULES = {
    "hub": "zmqgame_bus.hub",
    "game": "zmqgame.play.game",
    "manager": "zmqgame.manage.manager",
    "stats": "zmqgame.stats.stats",
    "bots": "zmqgame.play.bots",
}


class DidNotStart(AssertionError):
    """A process ended, or said nothing, before it was ready."""


class Running:
    """One process."""

    def __init__(self, name, command, log):
        self.name = name
        self.log = log
        read_fd, write_fd = os.pipe()
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--ready-fd", str(write_fd)], pass_fds=[write_fd], stdout=output, stderr=output
            )
        os.close(write_fd)
        self._ready_fd = read_fd
        self.addresses = {}

    async def ready(self):
        """Wait for the ready line."""
        line = await asyncio.to_thread(self._read_line)
        if not line:
            raise DidNotStart(f"{self.name}: {self.log.read_text()[-4000:]}")
        self.addresses = json.loads(line)["ready"]
        return self

    def _read_line(self):
        os.set_blocking(self._ready_fd, False)
        data, deadline = b"", time.monotonic() + READY_S
        try:
            while not data.endswith(b"\n") and time.monotonic() < deadline:
                try:
                    part = os.read(self._ready_fd, 65_536)
                except BlockingIOError:
                    time.sleep(0.02)
                    continue
                if not part:
                    return b""
                data += part
        finally:
            os.close(self._ready_fd)
        return data if data.endswith(b"\n") else b""

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s=60.0):
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()


class Cluster:
    """The processes of one test."""

    def __init__(self, folder: Path, **settings):
        self.folder = folder
        self.running = {}
        self.codes = {}
        self.hub_endpoint = "tcp://127.0.0.1:0"
        self.settings = {
            "events.publish": f"ipc://{folder}/events",
            "events.durability": "process",
            "hub.dead_ms": 20_000,  # nobody is given up for silence because the machine stands still
            **settings,
        }
        new_secret(folder / "token.secret")
        new_secret(folder / "netcode.key")
        self.config = folder / "zmqgame.toml"
        self.config.write_text("")

    async def start(self, role, name="", **settings):
        """Start a process and wait until it is ready."""
        name = name or role
        own = {**self.settings, **settings}
        if role == "hub":
            own["hub.listen"] = self.hub_endpoint
        else:
            own["bus.hub"] = self.hub_endpoint
        if role == "game":
            own = {"game.listen": "127.0.0.1:0", "game.udp": "127.0.0.1:0", **own}
        flags = [part for key, value in own.items() for part in ("--set", f"{key}={value}")]
        command = [sys.executable, "-m", MODULES[role], "--config", str(self.config), "--name", name]
        command += ["--state-dir", str(self.folder / name), *flags]
        running = Running(name, command, self.folder / f"{name}.log")
        self.running[name] = running
        await running.ready()
        if role == "hub":
            self.hub_endpoint = running.addresses["hub"]
        return running

    def kill(self, name):
        """kill -9."""
        self.running.pop(name).kill()

    def close(self):
        """Stop all that still run: clients first, the hub last."""
        for name, running in sorted(self.running.items(), key=lambda item: item[0] == "hub"):
            self.codes[name] = running.stop()
        self.running.clear()

    def logs(self):
        """The end of each log, for a test that failed."""
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in self.folder.glob("*.log"))


@contextlib.asynccontextmanager
async def cluster(folder, *games, **settings):
    """A hub, a manager and these game servers."""
    running = Cluster(folder, **settings)
    try:
        await running.start("hub")
        await running.start("manager")
        for name in games:
            await running.start("game", name)
        yield running
    except BaseException:
        print(running.logs())
        raise
    finally:
        running.close()
