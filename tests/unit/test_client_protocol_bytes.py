"""Any bytes give a message of the client protocol or a typed error; what we write is what is read."""

import json

from hypothesis import given
from hypothesis import strategies as st
from zmqgame import limits
from zmqgame.play.rules import Refused
from zmqgame.protocol import (
    Login,
    decode_payload,
    packet,
    read_id,
    read_login,
    read_message,
    read_object,
    read_packet,
)

U64 = st.integers(0, 2**64 - 1)
BYTES = st.binary(max_size=200)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)
FIELDS = ("token", "session", "login", "last_frame", "cursor", "action")


def refused_or(read, data: bytes):
    try:
        return read(data)
    except Refused:
        return None


@given(BYTES)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (read_packet, read_message, read_id, read_login):
        refused_or(read, data)
    refused_or(lambda data: read_object(data, 100), data)


@given(BYTES, st.integers(0, 255))
def test_any_content_is_decoded_or_a_value_error(data: bytes, content: int) -> None:
    try:
        decode_payload(content, data)
    except ValueError:
        return


@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), JSON, max_size=7))
def test_any_json_is_a_login_within_its_bounds_or_refused(values: dict[str, object]) -> None:
    login = refused_or(read_login, json.dumps(values).encode())
    if login is not None:
        assert isinstance(login.token, str)
        numbers = [login.session, login.login, login.last_frame, login.action]
        numbers += [number for mark in login.cursor for number in mark]
        assert all(0 <= number < 2**64 for number in numbers)
        assert len(login.cursor) <= limits.MAX_CURSOR_ENTRIES
        assert read_login(login.dump()) == login


@given(
    st.builds(Login, st.text(max_size=50), U64, U64, U64, st.lists(st.tuples(U64, U64, U64), max_size=5), U64)
)
def test_a_login_is_read_as_it_was_written(login: Login) -> None:
    assert read_login(login.dump()) == login


@given(st.integers(0, 255), U64, BYTES)
def test_a_packet_is_read_as_it_was_written(kind: int, sequence: int, payload: bytes) -> None:
    assert read_packet(packet(kind, sequence, payload)) == (kind, sequence, payload)
