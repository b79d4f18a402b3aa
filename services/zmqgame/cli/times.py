"""Lengths of time and moments as operators write them."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import click

__all__ = ["Duration", "Moment"]

_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_MAX_S: Final = 10 * 365 * 86_400
"""Ten years: longer ones are mistakes, and some clocks end behind it."""


class Duration(click.ParamType):  # type: ignore[type-arg]
    """`90s`, `10m`, `1.5h`, `1d`: seconds as a float."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds, above 0 and at most ten years; else usage."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", str(value))
        seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
        if not 0 < seconds <= _MAX_S:
            self.fail(f"{value!r}: write a number and s, m, h or d, at most ten years: 1d", param, ctx)
        return seconds


class Moment(click.ParamType):  # type: ignore[type-arg]
    """A date and time (of this machine's zone, if it names none): unix seconds. Or a Duration, from now."""

    name = "WHEN"

    def __init__(self, now_s: Callable[[], float]) -> None:
        """With the clock that durations count from."""
        self._now_s = now_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Unix seconds; else usage."""
        if re.fullmatch(r"[\d.]+[smhd]", str(value)):
            return self._now_s() + Duration().convert(value, param, ctx)
        try:
            return datetime.fromisoformat(str(value)).astimezone().timestamp()
        except ValueError:
            self.fail(f"{value!r}: write 30s, 10m, 2h, 1d, or a date and time: 2027-01-01T20:00", param, ctx)
