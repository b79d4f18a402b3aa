"""A presence reader against what a hub may send."""

from zmqgame_bus import presence
from zmqgame_bus.presence import PresenceReader

NODE_UP, NODE_DOWN, LOGIN, LOGOUT = range(1, 5)


def taken(reader: PresenceReader) -> list[tuple[str, str, bool]]:
    events = [(event.kind, event.name, event.snapshot) for event in reader.events]
    reader.events.clear()
    return events


async def test_a_snapshot_in_parts_then_changes() -> None:
    reader = PresenceReader()
    reader.put(True, [(NODE_UP, "g", "g")])
    reader.put(True, [(LOGIN, "a", "g")])
    reader.put(True, [])
    reader.put(False, [(LOGOUT, "a", "g")])
    assert taken(reader) == [("node_up", "g", True), ("login", "a", True), ("logout", "a", False)]


async def test_what_a_new_snapshot_does_not_name_has_gone() -> None:
    reader = PresenceReader()
    reader.put(True, [(NODE_UP, "g", "g"), (LOGIN, "a", "g"), (LOGIN, "b", "g")])
    reader.put(True, [])
    taken(reader)
    reader.put(True, [(NODE_UP, "g", "g"), (LOGIN, "b", "g")])
    reader.put(False, [(LOGIN, "c", "g"), (LOGOUT, "b", "g")])  # between the parts
    assert ("logout", "a", True) not in taken(reader)
    reader.put(True, [])
    assert taken(reader) == [("logout", "a", True)]
    reader.put(True, [])
    assert sorted(taken(reader)) == [("logout", "c", True), ("node_down", "g", True)]


async def test_a_slow_reader_is_bounded_and_asks_for_a_snapshot(monkeypatch) -> None:
    monkeypatch.setattr(presence, "PRESENCE_EVENTS", 3)
    reader = PresenceReader()
    assert reader.put(False, [(LOGIN, name, "g") for name in "abc"])
    assert not reader.put(False, [(LOGIN, "d", "g")])
    assert not reader.events
