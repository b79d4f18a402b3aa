"""Waiting for a condition: never for a time, and never without an end."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

DEADLINE_S = 60.0
"""For what takes a moment: a machine may be slow, or stand still for seconds."""

LOOK_S = 0.01


async def until(condition: Callable[[], Any], what: str = "", timeout_s: float = DEADLINE_S) -> Any:
    """Wait until it is true, or what it gives to await is; its value."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what or condition}"
        await asyncio.sleep(LOOK_S)


def wait_until(condition: Callable[[], object], what: object = "", timeout_s: float = DEADLINE_S) -> None:
    """The same without asyncio."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what or condition}"
        time.sleep(LOOK_S)
