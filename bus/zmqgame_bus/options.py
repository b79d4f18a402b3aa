"""How a message is to be treated, as the native module takes it."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Final, TypeAlias

from zmqgame_native import NodeCore

from zmqgame_bus.errors import NotSupportedByHub

__all__ = ["POLICIES", "Options", "not_supported", "send_options", "supported"]

POLICIES: Final = ("must-deliver", "latest", "droppable")

Options: TypeAlias = tuple[int, str, int, int, bool, bool]
"""Policy by number, key, deadline and deliver-at in unix ms (0 none), trace, quiet."""


_NOT_SUPPORTED: Final = "not supported: "
"""How the detail of a receipt begins, of a message that this hub has no words for."""


def supported(core: NodeCore, options: Options | None) -> Options | None:
    """These options; raises NotSupportedByHub if the hub, as far as it is there, can't do what they say."""
    if options is None:
        return None
    hub = core.hub
    if hub is not None:
        version, features = hub
        policy, _, deadline_ms, at_ms, _, _ = options
        for bit, feature, wanted in (
            (0, "policy", policy),
            (1, "deadline", deadline_ms),
            (2, "deferred", at_ms),
        ):
            if wanted and not features >> bit & 1:
                raise NotSupportedByHub(feature, version)
    return options


def not_supported(core: NodeCore, detail: str) -> NotSupportedByHub | None:
    """The error that a receipt's detail stands for: the message was taken before the hub was known."""
    if not detail.startswith(_NOT_SUPPORTED):
        return None
    version, _ = core.hub or (0, 0)
    return NotSupportedByHub(detail.removeprefix(_NOT_SUPPORTED), version)


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
