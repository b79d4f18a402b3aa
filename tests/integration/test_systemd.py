"""The units against an installed tree: what systemd-analyze says, and each service as its unit starts it."""

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.ports import free_endpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SYSTEMD = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
UNITS = sorted(path.name for path in SYSTEMD.glob("*.service"))
SERVICES = ("hub", "stats", "manager", "game@1")  # in the order of starting
HOST_UNITS = (
    "sysinit basic shutdown network network-online multi-user sockets timers paths slices "
    "local-fs swap umount"
)
EXPOSURE = 2.5

needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed"
)


def instance(unit):
    return unit.replace("@.", "@1.")


@pytest.fixture(scope="module")
def root(installed):
    """The installed tree with the host's own targets and commands, which `verify` looks for, and keys."""
    folder = installed / "usr/lib/systemd/system"
    for target in HOST_UNITS.split():
        shutil.copy(f"/usr/lib/systemd/system/{target}.target", folder)
    (installed / "bin").mkdir(exist_ok=True)
    shutil.copy("/bin/kill", installed / "bin/kill")  # of ExecReload
    keys = installed / "etc/zmqgame/keys"
    cli = [installed / "opt/zmqgame/bin/zmqgame-cli", "keys", "new", "--dir", keys]
    for name in ("hub", "stats", "manager", "game-1"):
        subprocess.run([*cli, name, "--allow", name], check=True, capture_output=True)
    for name in ("token.secret", "netcode.key"):
        subprocess.run([*cli, name, "--kind", "secret"], check=True, capture_output=True)
    return installed


@needs_systemd
def test_verify_prints_nothing(root):
    units = [*map(instance, UNITS), "zmqgame.target"]
    command = ["systemd-analyze", "verify", f"--root={root}", *units]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_verify_finds_what_is_wrong(root):
    broken = root / "usr/lib/systemd/system/zmqgame-broken.service"
    broken.write_text("[Service]\nExecStart=/opt/zmqgame/bin/none\nType=notfy\n")
    try:
        command = ["systemd-analyze", "verify", f"--root={root}", "zmqgame-broken.service"]
        assert subprocess.run(command, capture_output=True, text=True, check=False).stderr
    finally:
        broken.unlink()


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_units_are_sandboxed(unit):
    command = ["systemd-analyze", "security", "--offline=yes", SYSTEMD / unit]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    exposure = float(re.search(r"exposure level for \S+: (\d+\.\d)", text)[1])
    assert exposure <= EXPOSURE, text


@needs_systemd
def test_user_and_folders(root, tmp_path):
    (tmp_path / "etc").mkdir()
    conf = root / "usr/lib/sysusers.d/zmqgame.conf"
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", conf], check=True, capture_output=True)
    assert "zmqgame:x:" in (tmp_path / "etc/passwd").read_text()
    if os.geteuid() == 0:
        conf = root / "usr/lib/tmpfiles.d/zmqgame.conf"
        subprocess.run(
            ["systemd-tmpfiles", f"--root={tmp_path}", "--create", conf], check=True, capture_output=True
        )
        assert (tmp_path / "etc/zmqgame/keys").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "var/lib/zmqgame").stat().st_mode & 0o777 == 0o750


class Unit:
    """A service started from its unit's own ExecStart, as systemd would, below a root."""

    def __init__(self, root, name, tmp_path, watchdog_s=1.0, **environ):
        template, _, self.instance = name.partition("@")
        text = (SYSTEMD / f"zmqgame-{template}{'@' if self.instance else ''}.service").read_text()
        self.keys = self._read(text)
        self.folder = tmp_path / name
        self.folder.mkdir()
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(self.folder / "notify"))
        self.notify.settimeout(90)
        words = [
            str(root) + word if word.startswith("/") else word for word in shlex.split(self.one("ExecStart"))
        ]
        reader, writer = os.pipe()
        self.log = (self.folder / "log").open("w+")
        clean = {
            key: value for key, value in os.environ.items() if not key.startswith(("ZMQGAME_", "PYTHON"))
        }
        self.process = subprocess.Popen(
            [*words, f"--ready-fd={writer}"],
            env={
                **clean,
                "NOTIFY_SOCKET": str(self.folder / "notify"),
                "WATCHDOG_USEC": str(int(watchdog_s * 1e6)),
                "STATE_DIRECTORY": str(self._state(tmp_path)),
                "CREDENTIALS_DIRECTORY": str(self._credentials(root)),
                **environ,
            },
            pass_fds=[writer],
            stderr=self.log,
            cwd="/",
        )
        os.close(writer)
        with os.fdopen(reader) as ready:
            line = ready.readline()
        assert line, (self.folder / "log").read_text()
        self.ready = json.loads(line)["ready"]

    def _read(self, text):
        keys = {}
        for line in text.replace("%i", self.instance).splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                keys.setdefault(key, []).append(value)
        return keys

    def one(self, key):
        (value,) = self.keys[key]
        return value

    def _state(self, tmp_path):
        folder = tmp_path / "var" / self.one("StateDirectory")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _credentials(self, root):
        """What LoadCredential does: copies that only the service may read."""
        folder = self.folder / "credentials"
        folder.mkdir()
        for entry in self.keys.get("LoadCredential", []):
            name, _, source = entry.partition(":")
            (folder / name).write_bytes((root / source.lstrip("/")).read_bytes())
            (folder / name).chmod(0o400)
        return folder

    def next(self):
        return self.notify.recv(4096).decode()

    def until(self, start):
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            message = self.next()
            if message.startswith(start):
                return message
        raise AssertionError(f"no {start} in 90 s")

    def wait_until_stopped(self):
        """A signal to stop takes effect when each thread next leaves the kernel, not at once."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        deadline = time.monotonic() + 90
        while any(
            (each / "stat").read_text().rpartition(")")[2].split()[0] != "T" for each in tasks.iterdir()
        ):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def reload(self):
        """What `systemctl reload` does."""
        for word in self.keys.get("ExecReload", []):
            subprocess.run(shlex.split(word.replace("$MAINPID", str(self.process.pid))), check=True)

    def until_logged(self, words):
        deadline = time.monotonic() + 90
        while words not in (text := (self.folder / "log").read_text()):
            assert time.monotonic() < deadline, f"no {words!r} in {text}"
            time.sleep(0.02)

    def pending(self):
        """Everything that was sent until now."""
        self.notify.setblocking(False)
        messages = []
        try:
            while True:
                messages.append(self.next())
        except BlockingIOError:
            return messages
        finally:
            self.notify.settimeout(90)

    def stop(self):
        self.pending()
        self.process.send_signal(signal.SIGTERM)
        self.until("STOPPING=1")
        code = self.process.wait(90)
        self.notify.close()
        self.log.close()
        return code, (self.folder / "log").read_text()


@pytest.fixture
def units(root, tmp_path):
    """All services, as their units start them, with CURVE keys by LoadCredential."""
    hub, events = (free_endpoint() for _ in range(2))
    environ = {
        "ZMQGAME_HUB_LISTEN": hub,
        "ZMQGAME_BUS_HUB": hub,
        "ZMQGAME_STATS_LISTEN": events,
        "ZMQGAME_EVENTS_PUBLISH": events,
        "ZMQGAME_GAME_LISTEN": "127.0.0.1:0",
        "ZMQGAME_GAME_UDP": "127.0.0.1:0",
    }
    made = {}
    try:
        for name in SERVICES:
            made[name] = Unit(root, name, tmp_path, **environ)
        yield made
    finally:
        for unit in made.values():
            if unit.process.poll() is None:
                unit.process.kill()
                unit.process.wait()


def test_each_service_tells_the_service_manager(units):
    for name, unit in units.items():
        ready = unit.until("READY=1")
        assert f"MAINPID={unit.process.pid}" in ready, name
        assert re.search(r"STATUS=\S+", ready), name
        assert unit.until("WATCHDOG=1")
    for name in SERVICES:
        unit = units[name]
        unit.process.send_signal(signal.SIGSTOP)
        unit.wait_until_stopped()
        unit.pending()
        time.sleep(1.0)  # three intervals of the pings: a process that hangs gives none
        missed = unit.pending()
        unit.process.send_signal(signal.SIGCONT)
        assert missed == [], name
        assert unit.until("WATCHDOG=1")
    for name in reversed(SERVICES):
        code, log = units[name].stop()
        assert code == 0, f"{name}: {log}"


def test_who_can_read_something_again_does_so_at_a_reload(units):
    again = {
        "hub": "keys read again from",
        "stats": "keys read again from",
        "game@1": "certificate and key read again",
    }
    for name, unit in units.items():
        unit.until("READY=1")
        assert ("ExecReload" in unit.keys) == (name in again)
        if name in again:
            unit.reload()
        else:
            unit.process.send_signal(signal.SIGHUP)
        unit.until_logged(again.get(name, "nothing to read again"))
        unit.pending()
        assert unit.until("WATCHDOG=1"), name


def test_units_run_as_their_own_user_and_wait_long_enough():
    parser = configparser.RawConfigParser(strict=False)
    users = set()
    for unit in UNITS:
        parser.read_string((SYSTEMD / unit).read_text())
        service = parser["Service"]
        users.add(service["User"])
        assert service["Type"] == "notify"
        assert float(service["TimeoutStopSec"].rstrip("s")) > 20
        assert service["RestartPreventExitStatus"] == "2 4"
        assert (
            parser["Unit"]["StartLimitIntervalSec"] == "0"
        )  # a port held for a while is no reason to give up
    assert users == {"zmqgame"}
