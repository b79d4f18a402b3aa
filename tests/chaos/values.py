"""Unique values: what is sent can be told from all else, in its order, and whether it came whole.

`SENDER.START.NUMBER.PADDING`, then a bar and so many letters. START grows with each process of that sender,
NUMBER with each message: so (START, NUMBER) is the order of one sender.
"""

from typing import NamedTuple

FILLER = "hello "


def _filler(length: int) -> str:
    return (FILLER * (length // len(FILLER) + 1))[:length]


class Value(NamedTuple):
    """The name of a message."""

    sender: str
    start: int
    number: int
    padding: int

    @property
    def order(self) -> tuple[int, int]:
        return self.start, self.number

    def __str__(self) -> str:
        return f"{self.sender}.{self.start}.{self.number}.{self.padding}"

    @classmethod
    def parse(cls, text: str) -> "Value":
        sender, start, number, padding = text.split(".")
        return cls(sender, int(start), int(number), int(padding))

    def payload(self) -> str:
        return f"{self}|{_filler(self.padding)}"


def whole(payload: str) -> str | None:
    """The value that a payload carries, if it is as it was sent."""
    text, bar, letters = payload.partition("|")
    try:
        value = Value.parse(text)
    except ValueError:
        return None
    return text if bar and letters == _filler(value.padding) else None
