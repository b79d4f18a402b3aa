"""Folders that a process needs: made, tried by writing, refused with a clear error."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from zmqgame_bus.errors import StartError, explain
from zmqgame_bus.limits import FOLDER_PROBE_BYTES

__all__ = ["prepare"]


def prepare(folder: Path, *, option: str = "--state-dir") -> Path:
    """Make ``folder`` if it is not there and show that it can be written; StartError says why not.

    Looking at mode bits or free blocks is not enough (quota, read-only mounts, reserved blocks), so a few
    blocks are really written and synced. ``option`` is the flag that chose it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as probe:
            probe.write(bytes(FOLDER_PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        ours = explain(error, str(folder.resolve()), option=option)
        raise ours or StartError(f"{folder}: {error.strerror}") from error
    return folder
