"""Configuration: precedence, limits with reasons, unknown keys, documentation from the tables."""

import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqgame_bus import schema
from zmqgame_bus.config import example, key, load, reference, table
from zmqgame_bus.errors import ConfigError


@table("probe")
@dataclass(frozen=True)
class Probe:
    """A table of this test."""

    listen: str = key("tcp://127.0.0.1:0", unit="endpoint", help="Where.")
    size_bytes: int = key(1000, unit="bytes", low=10, high=2000, reason="a page has 2000", help="How big.")
    ratio: float = key(0.5, low=0, high=1, reason="a share", help="Share.")
    on: bool = key(False, help="Switch.")
    names: tuple[str, ...] = key(("a", "b"), help="Some.")
    mode: str = key("fast", choices=("fast", "safe"), help="Mode.")


def write(tmp_path, text):
    file = tmp_path / "game.toml"
    file.write_text(text)
    return file


def problems(*args, **kwargs):
    with pytest.raises(ConfigError) as caught:
        load(*args, **kwargs)
    return str(caught.value)


def test_flags_go_over_environment_over_file_over_defaults(tmp_path):
    file = write(tmp_path, '[probe]\nlisten = "ipc://f"\nsize_bytes = 11\nratio = 1\n')
    environ = {"ZMQGAME_PROBE_SIZE_BYTES": "12", "ZMQGAME_PROBE_ON": "yes", "ZMQGAME_PROBE_NAMES": "x, y"}
    config = load(file, environ=environ, flags={"probe.on": "false"})
    assert config.table(Probe) == Probe("ipc://f", 12, 1.0, False, ("x", "y"), "fast")
    assert config.source("probe.listen") == f"{file}:2"
    assert config.source("probe.size_bytes") == "environment ZMQGAME_PROBE_SIZE_BYTES"
    assert config.source("probe.on") == "--set probe.on"
    assert config.source("probe.mode") == "default"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "\n[probe]\nsize_bytes = 70000\n",
            ":3: probe.size_bytes = 70000 is over the limit of 2000 (a page has 2000)",
        ),
        ("[probe]\nsize_bytes = 1\n", ":2: probe.size_bytes = 1 is under the limit of 10 (a page has 2000)"),
        ("[probe]\nsize_byte = 1\n", ":2: unknown key probe.size_byte; did you mean probe.size_bytes?"),
        ("[prob]\nx = 1\n", ":1: unknown table [prob]; did you mean probe?"),
        ("probe.on = 1\n", ":1: probe.on = 1 is a whole number, not true or false"),
        ('[probe]\nmode = "fats"\n', ':2: probe.mode = "fats" is not one of fast, safe; did you mean fast?'),
        ('[probe]\nsize_bytes = "1000"\n', ':2: probe.size_bytes = "1000" is a text, not a whole number'),
        ("[probe]\nnames = [1]\n", ":2: probe.names = [1] is a list, not a list of texts"),
        ("x = 1\n", ":1: unknown key x"),
        ("probe = 1\n", ":1: probe is a table: write [probe]"),
        ("[probe]\nlisten = \n", ":2: not TOML: Invalid value"),
    ],
)
def test_error_names_file_line_key_and_limit(tmp_path, text, expected):
    file = write(tmp_path, text)
    assert problems(file, environ={}).startswith(f"{file}{expected}")


BAD_TEXTS = [
    ("hub.listen", "x", "is not tcp://HOST:PORT or ipc://PATH"),
    ("bus.hub", "garbage", "is not tcp://HOST:PORT or ipc://PATH"),
    ("game.listen", "127.0.0.1:99999", "is over the limit of 65535 for a port"),
    ("game.udp", "127.0.0.1", "is not HOST:PORT"),
    ("game.public_host", "play.example.com:7611", "is not a host without a port"),
    ("game.rules", "nope", "is not module:class"),
    ("stats.clickhouse", "foo", "is not chdb, http://HOST:PORT or https://HOST:PORT"),
    ("stats.clickhouse", "http://host:99999", "is over the limit of 65535 for a port"),
    ("mailbox.url", "mailbox.db", "is not sqlite:PATH or mongodb://HOST/DATABASE"),
    ("manager.match_config", "{", "is not a JSON object"),
    ("manager.match_config", "[]", "is not a JSON object"),
    ("security.key_file", "", "is not the name of a file"),
    ("bots.prefix", "b" * 101, "is not at most 100 characters without a blank"),
    ("events.spool_dir", "a\0b", "is not the name of a folder"),
]


@pytest.mark.parametrize(("path", "value", "expected"), BAD_TEXTS)
def test_a_text_that_can_not_be_meant_is_an_error_where_it_is_written(tmp_path, path, value, expected):
    table_name, _, name = path.partition(".")
    file = write(tmp_path, f"[{table_name}]\n{name} = {json.dumps(value)}\n")
    text = problems(file, environ={})
    assert text.startswith(f"{file}:2: {path} = ")
    assert text.endswith(expected)


GOOD_TEXTS = [
    ("hub.listen", "tcp://*:0"),
    ("hub.listen", "tcp://[::1]:7600"),
    ("game.udp", ""),
    ("game.public_host", "play.example.com"),
    ("stats.clickhouse", "https://user:p%40ss@clickhouse.example.com:8443"),
    ("manager.match_config", '{"distance_m": 201.168}'),
]


@pytest.mark.parametrize(("path", "value"), GOOD_TEXTS)
def test_a_text_that_can_be_meant_is_taken(path, value):
    assert load(environ={}, flags={path: value}).settings[path].value == value


@pytest.mark.parametrize("path", ["security.key_file", "events.spool_dir", "probe.names"])
def test_every_text_has_a_limit_and_the_error_stays_short(path):
    assert load(environ={}, flags={path: "x" * 65_536})
    text = problems(environ={}, flags={path: "x" * 65_537})
    assert text.endswith("has 65537 characters: the limit is 65536")
    assert len(text) < 400


def test_every_problem_is_reported_at_once(tmp_path):
    file = write(tmp_path, "[probe]\nsize_bytes = 1\nratio = 2\n")
    text = problems(file, environ={"ZMQGAME_PROBE_ONN": "1"}, flags={"probe.mode": "slow", "bus.hubb": "x"})
    assert len(text.splitlines()) == 5
    assert "environment ZMQGAME_PROBE_ONN: sets no key; did you mean ZMQGAME_PROBE_ON?" in text
    assert "--set bus.hubb: unknown key bus.hubb; did you mean bus.hub?" in text


def test_unreadable_files_are_configuration_errors(tmp_path):
    assert "can't be read: No such file" in problems(tmp_path / "none.toml", environ={})
    binary = tmp_path / "b.toml"
    binary.write_bytes(b"a = \xff")
    assert "not UTF-8 at byte 4" in problems(binary, environ={})
    binary.write_bytes(b"#" * 1_048_577)
    assert "over the limit of 1048576 bytes" in problems(binary, environ={})


def test_a_limit_needs_a_reason_and_a_default_within_it():
    with pytest.raises(TypeError, match="a limit needs a reason"):
        key(1, low=0, help="x")
    with pytest.raises(ValueError, match="under the limit"):

        @table("bad")
        @dataclass(frozen=True)
        class Bad:
            x: int = key(1, low=2, reason="r", help="h")


def test_two_tables_of_one_name_are_refused():
    with pytest.raises(TypeError, match="already defined"):

        @table("probe")
        @dataclass(frozen=True)
        class Other:
            x: int = key(1, help="h")


def test_reference_and_example_hold_every_key(tmp_path):
    text, sample = reference(), example()
    for name, cls in schema.tables().items():
        for each in schema.keys_of(name, cls):
            assert f"- `{each.name}` (" in text
            assert f"# {each.name} = " in sample
    bare = "\n".join(line[2:] if " = " in line else line for line in sample.splitlines())
    config = load(write(tmp_path, bare), environ={})
    assert config.table(Probe) == Probe()


@given(st.text(), st.integers())
def test_any_text_gives_a_value_or_a_typed_error(text, number):
    for each in schema.keys_of("probe", Probe):
        for given_text in (text, str(number)):
            try:
                each.check(each.parse(given_text))
            except ValueError as error:
                assert str(error)  # noqa: PT017 - either way is right, silence is not


@given(st.text(max_size=200))
def test_any_file_gives_a_configuration_or_a_typed_error(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("c") / "x.toml"
    file.write_text(text)
    try:
        load(file, environ={})
    except ConfigError as error:
        assert error.problems  # noqa: PT017 - either way is right
