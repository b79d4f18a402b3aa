"""How a message is to be treated, as the native module takes it."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Final, TypeAlias

__all__ = ["POLICIES", "Options", "send_options"]

POLICIES: Final = ("must-deliver", "latest", "droppable")

Options: TypeAlias = tuple[int, str, int, int, bool, bool]
"""Policy by number, key, deadline and deliver-at in unix ms (0 none), trace, quiet."""


def send_options(
    policy: str,
    key: str,
    ttl_s: float | None,
    deliver_at: datetime | float | None,
    trace: bool,
    *,
    quiet: bool = False,
) -> Options | None:
    """None for what is usual: must-deliver, at once, for ever."""
    if policy not in POLICIES:
        raise ValueError(f"policy {policy!r} is none of {', '.join(POLICIES)}")
    number = POLICIES.index(policy)
    if number == 0 and ttl_s is None and deliver_at is None and not trace and not key:
        return None
    if ttl_s is not None and ttl_s <= 0:
        raise ValueError(f"ttl_s is {ttl_s:g}: a message needs some time to arrive")
    if key and policy != "latest":
        raise ValueError(f"a key is for the policy latest, not for {policy}")
    if isinstance(deliver_at, datetime):
        if deliver_at.tzinfo is None:
            raise ValueError(f"deliver_at {deliver_at} has no time zone")
        deliver_at = deliver_at.timestamp()
    at_ms = 0 if deliver_at is None else max(1, round(deliver_at * 1000))
    deadline_ms = 0
    if ttl_s is not None:  # a deferred message lives from the time at which it is to arrive
        deadline_ms = max(round(time.time() * 1000), at_ms) + max(1, round(ttl_s * 1000))
    return number, key, deadline_ms, at_ms, trace, quiet and number != 0
