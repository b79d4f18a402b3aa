"""Supervision on real processes: ready, restart, giving up, stopping, and nothing left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from zmqgame.cli.supervise import Spec, Supervisor, last_words
from zmqgame_bus.errors import StartError

from tests.waiting import until

SERVICE = textwrap.dedent("""
    import sys, os, signal, time, json
    fd = int(sys.argv[-1].partition("=")[2])
    mode = sys.argv[1]
    if mode == "usage":
        print("error: no such key\\n  look again", file=sys.stderr); sys.exit(2)
    if mode == "silent":
        time.sleep(60)
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with os.fdopen(fd, "w") as ready:
        ready.write(json.dumps({"name": "x", "ready": {"tcp": "here"}}) + "\\n")
    if mode == "replaced":
        time.sleep(0.1); print("error: replaced", file=sys.stderr); sys.exit(4)
    while True:
        time.sleep(60)
""")


def spec(mode, **kwargs):
    return Spec(mode, [sys.executable, "-c", SERVICE, mode], **kwargs)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


async def test_a_killed_child_comes_back_and_all_end_in_order(tmp_path):
    heard = []
    supervisor = Supervisor(tmp_path, lambda *event: heard.append(event))
    one, two = await supervisor.start(spec("one")), await supervisor.start(spec("two"))
    assert one.ready == {"tcp": "here"}
    first = one.pid
    supervisor.kill("one")
    assert not one.up.is_set()
    await asyncio.wait_for(one.up.wait(), 60)
    assert one.starts == 2
    assert one.pid != first
    assert await supervisor.stop() == {"two": 0, "one": 0}
    assert one.pid is None
    assert two.pid is None
    assert ("one", "ended", "signal 9") in heard
    assert any(event[:2] == ("one", "back") for event in heard)


async def test_a_child_that_cannot_start_says_why(tmp_path):
    supervisor = Supervisor(tmp_path)
    with pytest.raises(StartError, match="usage ended with code 2: no such key\n  look again"):
        await supervisor.start(spec("usage"))
    await supervisor.stop()


async def test_a_child_that_is_never_ready_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("zmqgame.cli.supervise.READY_S", 0.5)
    supervisor = Supervisor(tmp_path)
    with pytest.raises(StartError, match="silent was not ready after"):
        await supervisor.start(spec("silent"))
    child = supervisor.children["silent"]
    await until(lambda: child.process.returncode is not None)
    await supervisor.stop()


async def test_a_replaced_child_is_not_started_again(tmp_path):
    supervisor = Supervisor(tmp_path)
    child = await supervisor.start(spec("replaced"))
    with pytest.raises(StartError, match="replaced ended"):
        await asyncio.wait_for(supervisor.failed, 60)
    assert child.starts == 1
    await supervisor.stop()


async def test_a_child_that_does_not_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("zmqgame.cli.supervise.STOP_S", 0.3)
    supervisor = Supervisor(tmp_path)
    await supervisor.start(spec("stubborn"))
    assert await supervisor.stop() == {"stubborn": -signal.SIGKILL}


def test_nothing_is_left_behind_when_the_parent_is_killed(tmp_path):
    program = textwrap.dedent(f"""
        import asyncio, pathlib, sys
        from zmqgame.cli.supervise import Spec, Supervisor
        async def main():
            supervisor = Supervisor(pathlib.Path({str(tmp_path)!r}))
            child = await supervisor.start(Spec("one", [sys.executable, "-c", {SERVICE!r}, "stubborn"]))
            print(child.pid, flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
    """)
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 60
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_last_words_are_the_last_error(tmp_path):
    log = tmp_path / "x.log"
    assert last_words(log) == "no log"
    log.write_text('{"level":"info","message":"hello"}\n')
    assert last_words(log) == '{"level":"info","message":"hello"}'
    log.write_text('{"level":"critical","message":"failed: broken"}\n{"level":"info"}\n')
    assert last_words(log) == "failed: broken"
