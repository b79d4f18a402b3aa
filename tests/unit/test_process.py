"""Processes: ready line, notifications, watchdog, drain, exit codes, errors at start that say what to do."""

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
from zmqgame_bus import ports
from zmqgame_bus.errors import AddressInUse, AddressRefused, DiskFull, FolderNotUsable, binding, explain
from zmqgame_bus.folders import prepare
from zmqgame_bus.systemd import Notifier

NOBODY = 65534

SERVICE = textwrap.dedent("""
    import asyncio, sys, socket
    from zmqgame_bus.errors import Replaced, binding
    from zmqgame_bus.process import run

    async def serve(process):
        mode = process.config.table(__import__("zmqgame_bus.tables", fromlist=["BusConfig"]).BusConfig).hub.removeprefix("ipc://")
        if mode == "fail":
            raise RuntimeError("broken")
        if mode == "replaced":
            raise Replaced("another hub took over")
        if mode.startswith("tcp://"):
            with binding(mode, key="bus.hub"):
                socket.create_server(("127.0.0.1", int(mode.rpartition(":")[2])))
        await process.ready("up", {"tcp": "tcp://127.0.0.1:1"})
        await process.stop.wait()
        if mode == "stuck":
            await asyncio.sleep(600)
        print("drained", flush=True)

    sys.exit(run("probe", serve))
""")


class Service:
    """A service as a child process, with a notification socket of its own."""

    def __init__(self, tmp_path, *flags, **environ):
        path = tmp_path / "notify"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(path))
        self.notify.settimeout(60)
        reader, writer = os.pipe()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                SERVICE,
                "--state-dir",
                str(tmp_path / "state"),
                "--ready-fd",
                str(writer),
                *flags,
            ],
            env={**os.environ, "NOTIFY_SOCKET": str(path), **environ},
            pass_fds=[writer],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(writer)
        self.ready = os.fdopen(reader)

    def next(self):
        return self.notify.recv(4096).decode()

    def drain(self):
        self.notify.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.next()

    def end(self):
        out, err = self.process.communicate(timeout=60)
        self.ready.close()
        self.notify.close()
        return self.process.returncode, out, err


def test_ready_status_watchdog_stopping_and_exit_0(tmp_path):
    service = Service(tmp_path, WATCHDOG_USEC="300000")
    assert json.loads(service.ready.readline()) == {"name": "probe", "ready": {"tcp": "tcp://127.0.0.1:1"}}
    seen = [service.next() for _ in range(6)]
    assert f"READY=1\nSTATUS=up\nMAINPID={service.process.pid}" in seen
    assert seen.count("WATCHDOG=1") >= 4
    service.process.send_signal(signal.SIGTERM)
    while not (last := service.next()).startswith("STOPPING=1"):
        pass
    assert last == "STOPPING=1\nSTATUS=draining"
    code, out, err = service.end()
    assert (code, out) == (0, "drained\n")
    lines = [json.loads(line) for line in err.splitlines()]
    assert [line["message"] for line in lines] == ["ready: up", "stopping", "stopped"]
    assert {"time", "level", "process", "logger"} <= set(lines[0])


def test_a_stopped_process_gives_no_sign_of_life(tmp_path):
    service = Service(tmp_path, WATCHDOG_USEC="150000")
    service.ready.readline()
    service.process.send_signal(signal.SIGSTOP)
    stat = Path(f"/proc/{service.process.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)
    service.drain()
    service.notify.settimeout(0.5)
    with pytest.raises(TimeoutError):
        service.next()
    service.process.send_signal(signal.SIGCONT)
    service.notify.settimeout(60)
    assert service.next() == "WATCHDOG=1"
    service.process.send_signal(signal.SIGTERM)
    assert service.end()[0] == 0


def test_a_second_signal_ends_a_process_that_does_not_drain(tmp_path):
    service = Service(tmp_path, "--set", "bus.hub=ipc://stuck")
    service.ready.readline()
    service.process.send_signal(signal.SIGTERM)
    while not service.next().startswith("STOPPING=1"):
        pass
    service.process.send_signal(signal.SIGTERM)
    code, _, err = service.end()
    assert code == 1
    assert "ended at once by a second signal" in err


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (["--set", "bus.hub=ipc://fail"], 1, "RuntimeError: broken"),
        (["--set", "bus.hub=ipc://replaced"], 4, "error: another hub took over"),
        (["--set", "bus.hubb=x"], 2, "error: --set bus.hubb: unknown key bus.hubb; did you mean bus.hub?"),
        (["--set", "bus.hub"], 2, "error: --set bus.hub: write TABLE.KEY=VALUE"),
        (["--config", "none.toml"], 2, "error: none.toml: can't be read: No such file"),
        (["--what"], 2, "unrecognized arguments"),
    ],
)
def test_exit_codes(tmp_path, flags, code, text):
    got, _, err = Service(tmp_path, *flags).end()
    assert got == code
    assert text in err


def test_a_port_in_use_names_its_holder_and_what_to_do(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, _, err = Service(tmp_path, "--set", f"bus.hub=tcp://127.0.0.1:{port}").end()
        assert ports.holder(port).pid == os.getpid()
    assert code == 3
    assert f"error: port {port} on 127.0.0.1 is in use by another process (pid {os.getpid()}, " in err
    assert "choose another: --set bus.hub=…" in err
    assert ports.holder(port) is None


def test_udp_ports_have_holders_too():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        assert ports.holder(sock.getsockname()[1], udp=True).pid == os.getpid()


def test_a_foreign_address_is_refused():
    sock = socket.socket()
    with (
        sock,
        pytest.raises(AddressRefused, match="not an address of this machine"),
        binding("tcp://192.0.2.1:0"),
    ):
        sock.bind(("192.0.2.1", 0))


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "state").write_text("")
    with pytest.raises(FolderNotUsable, match="is not a folder") as caught:
        prepare(tmp_path / "state")
    assert caught.value.hint.endswith("use --state-dir")
    with pytest.raises(FolderNotUsable) as caught:
        prepare(tmp_path / "state", option="--keep")
    assert caught.value.hint.endswith("use --keep")


def test_an_unwritable_folder():
    """Root may write everywhere, so it does this as nobody."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        os.seteuid(NOBODY if user == 0 else user)
        try:
            with pytest.raises(FolderNotUsable, match="not writable"):
                prepare(Path(folder) / "state")
        finally:
            os.seteuid(user)


def test_a_folder_where_even_root_may_not_write():
    with pytest.raises((FolderNotUsable, Exception), match="proc"):
        prepare(Path("/proc/sys/zmqgame"))


@pytest.mark.parametrize(
    ("number", "kind"), [("ENOSPC", DiskFull), ("EROFS", FolderNotUsable), ("EADDRINUSE", AddressInUse)]
)
def test_operating_system_errors_are_explained(number, kind):
    assert isinstance(explain(OSError(getattr(errno, number), "x"), "/data"), kind)
    assert explain(OSError(errno.EIO, "x"), "/data") is None


def test_full_disk_is_named():
    """/dev/full answers each write as a full disk does."""
    with open("/dev/full", "wb", buffering=0) as stream, pytest.raises(OSError, match="space") as caught:
        stream.write(b"x")
    ours = explain(caught.value, "/data")
    assert isinstance(ours, DiskFull)
    assert str(ours) == "no space left to write /data"


def test_notifications_reach_an_abstract_socket():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0zmqgame-test-notify")
        notifier = Notifier(
            {"NOTIFY_SOCKET": "@zmqgame-test-notify", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
        )
        notifier.status("two\nlines")
        assert sock.recv(100) == b"STATUS=two lines"
        assert notifier.watchdog_s is None
        notifier.close()
    Notifier({}).ready("nobody listens")
