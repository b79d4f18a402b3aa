"""Tokens and the client protocol's codecs: what is right comes back, everything else is refused by kind."""

import contextlib

import jwt
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqgame import protocol, tokens
from zmqgame.play.rules import Refused

SECRET = bytes(range(32))
U64 = st.integers(0, 2**64 - 1)


def kind_of(call, *args):
    with pytest.raises(Refused) as error:
        call(*args)
    return error.value.kind


def test_a_token_says_who():
    claims = tokens.verify(SECRET, tokens.sign(SECRET, "änn", 2**63 + 5, 60))
    assert (claims.player, claims.session) == ("änn", 2**63 + 5)
    assert 0 <= tokens.wall_ms() - claims.auth_ms < 60_000
    renewed = tokens.sign(SECRET, "änn", 5, 60, claims.auth_ms - 12_345)
    assert tokens.verify(SECRET, renewed).auth_ms == claims.auth_ms - 12_345
    ahead = tokens.verify(SECRET, tokens.sign(SECRET, "änn", 5, 60, 2 * claims.auth_ms))
    assert ahead.auth_ms <= tokens.wall_ms(), (
        "a manager whose clock is ahead does not lock out those after it"
    )


def test_wrong_tokens_are_refused():
    good = tokens.sign(SECRET, "ann", 7, 60)
    head, body, _ = good.split(".")
    assert kind_of(tokens.verify, bytes(32), good) == "bad_token"
    assert kind_of(tokens.verify, SECRET, tokens.sign(SECRET, "ann", 7, -60)) == "token_expired"
    assert kind_of(tokens.verify, SECRET, "") == "bad_token"
    assert kind_of(tokens.verify, SECRET, f"{head}.{body}.") == "bad_token"
    assert kind_of(tokens.verify, SECRET, "x" * 5_000) == "bad_token"
    assert kind_of(tokens.verify, SECRET, tokens.sign(SECRET, "a\nb", 7, 60)) == "bad_token"
    assert kind_of(tokens.verify, SECRET, tokens.sign(SECRET, "ann", 0, 60)) == "bad_token"
    claims = {"sub": "ann", "sid": "7", "exp": 2**40}
    assert kind_of(tokens.verify, SECRET, jwt.encode(claims, SECRET, "HS256")) == "bad_token"
    claims["aud"] = "game"
    assert kind_of(tokens.verify, SECRET, jwt.encode(claims, SECRET, "HS256")) == "bad_token"
    for wrong in ("1", None, [1], float("inf"), float("nan"), -1e400):
        values = {**claims, "auth_time": wrong}
        assert kind_of(tokens.verify, SECRET, jwt.encode(values, SECRET, "HS256")) == "bad_token", wrong
    claims["auth_time"] = 1
    assert tokens.verify(SECRET, jwt.encode(claims, SECRET, "HS256")).auth_ms == 1_000
    assert kind_of(tokens.verify, SECRET, jwt.encode(claims, None, "none")) == "bad_token"
    assert kind_of(tokens.verify, SECRET, jwt.encode(claims, SECRET, "HS512")) == "bad_token"


def test_a_token_of_an_older_login_does_not_come_back():
    newest = tokens.Newest(most=3)

    def claims(session, auth_ms):
        return tokens.Claims("ann", session, 2**40, auth_ms)

    newest.check(claims(1, 10))
    newest.note("ann", 1, 10)
    newest.check(claims(1, 10))
    newest.check(claims(2, 20))
    newest.note("ann", 2, 20)
    assert kind_of(newest.check, claims(1, 10)) == "taken_over"
    newest.check(claims(1, 30))  # the manager has let it in once more
    newest.note("ann", 2, 20, left=True)
    assert kind_of(newest.check, claims(2, 20)) == "left"
    assert kind_of(newest.check, claims(2, 10)) == "left"
    newest.check(claims(3, 21))
    for player in ("bob", "cleo", "dan"):
        newest.note(player, 1, 1)
    newest.check(claims(1, 10))  # forgotten: only so many are known


def test_the_secret_is_made_once_and_is_private(tmp_path):
    path = tmp_path / "keys" / "token.secret"
    secret = tokens.load_secret(path)
    assert len(secret) == 32
    assert tokens.load_secret(path) == secret
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("abcd\n")
    with pytest.raises(ValueError, match="32 bytes"):
        tokens.load_secret(path)


@given(st.text(min_size=1, max_size=30).filter(tokens.valid_name), U64)
def test_user_data_comes_back(player, session):
    data = tokens.user_data(player, session)
    assert len(data) == 256
    assert tokens.read_user_data(data) == (player, session)


@given(st.binary(max_size=300))
def test_any_user_data_is_read_or_refused(data):
    with contextlib.suppress(Refused):
        tokens.read_user_data(data)


@given(U64, U64, U64, st.lists(st.tuples(U64, U64, U64), max_size=64))
def test_a_login_comes_back(session, login, frame, cursor):
    sent = protocol.Login("token", session, login, frame, cursor)
    assert protocol.read_login(sent.dump()) == sent


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.integers(-(2**70), 2**70),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(["token", "session", "login", "last_frame", "cursor"])


@given(st.binary(max_size=200) | st.dictionaries(FIELDS, JSON).map(lambda value: repr(value).encode()))
def test_any_bytes_are_a_login_or_refused(data):
    with pytest.raises(Refused):
        protocol.read_login(data)


@given(st.dictionaries(FIELDS, JSON.filter(lambda value: not isinstance(value, int))))
def test_any_object_is_a_login_or_refused(values):
    try:
        data = orjson.dumps(values)
    except TypeError:
        return
    with contextlib.suppress(Refused):
        protocol.read_login(data)


@given(st.integers(0, 255), U64, st.binary(max_size=100))
def test_a_packet_comes_back(kind, sequence, payload):
    assert protocol.read_packet(protocol.packet(kind, sequence, payload)) == (kind, sequence, payload)


IDS = st.builds(protocol.RawId, st.integers(1, 3), st.integers(1, 3), st.integers(1, 5))


@given(st.lists(IDS))
def test_the_cursor_holds_the_greatest_of_each_sender(ids):
    cursor = protocol.Cursor()
    for each in ids:
        cursor.handle(each)
        assert cursor.seen(each)
    expected = {
        key: max((i.epoch, i.seq) for i in ids if i.node_key == key) for key in {i.node_key for i in ids}
    }
    assert cursor.marks() == [(key, *mark) for key, mark in sorted(expected.items())]
    assert protocol.Cursor(cursor.marks()).marks() == cursor.marks()
    for each in ids:
        cursor.forget(each._replace(epoch=9))
    assert len(cursor) == 0
