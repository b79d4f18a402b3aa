"""The emitter without a stats: what it says of events that are on their way to the spool."""

import threading

from zmqgame_bus.events import Emitter
from zmqgame_bus.spool import Spool


async def test_what_is_being_written_is_not_yet_confirmed(tmp_path, monkeypatch):
    """Between the queue and the spool an event belongs to neither; a drain may not end there."""
    writing, go_on = threading.Event(), threading.Event()
    commit = Spool.commit

    def slow_commit(spool):
        writing.set()
        assert go_on.wait(30)
        return commit(spool)

    emitter = Emitter("game-1", spool_dir=tmp_path, publish="tcp://127.0.0.1:1")
    try:
        assert await emitter.drain(0)
        monkeypatch.setattr(Spool, "commit", slow_commit)
        assert emitter.emit("sessions", event="login", player="p", server="game-1")
        assert writing.wait(30)
        assert emitter.unconfirmed() == 1
        assert not await emitter.drain(0)
        go_on.set()
    finally:
        go_on.set()
        emitter.close()
    assert emitter.unconfirmed() == 1
    emitter.answer({"op": "confirm", "epochs": [[emitter.epoch, 1]]})
    assert emitter.unconfirmed() == 0
