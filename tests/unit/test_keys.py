"""Key files: made once, private, read with clear errors, found among systemd's credentials."""

import contextlib
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85
from zmqgame.cli import main
from zmqgame_bus import keys, rotation
from zmqgame_bus.config import load
from zmqgame_bus.errors import KeyFileError
from zmqgame_bus.keys import Allowed, Keyring, NodeKeys


def ring(tmp_path, text="", **environ):
    file = tmp_path / "zmqgame.toml"
    file.write_text("[security]\n" + text)
    return Keyring(load(file, environ={}), environ)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_pair_is_private_and_read_back(tmp_path):
    pair = keys.new_pair(tmp_path, "game-1")
    assert mode(tmp_path / "game-1.key") == 0o600
    assert keys.read_pair(tmp_path / "game-1.key") == pair
    assert keys.read_public(tmp_path / "game-1.pub") == pair.public
    assert "secret" not in repr(pair)
    with pytest.raises(KeyFileError, match=r"game-1.key exists"):
        keys.new_pair(tmp_path, "game-1")
    assert keys.read_pair(tmp_path / "game-1.key") == pair


@pytest.mark.parametrize("bits", [0o644, 0o640, 0o604, 0o660, 0o602])
def test_a_key_that_others_may_read_is_refused(tmp_path, bits):
    keys.new_pair(tmp_path, "a")
    (tmp_path / "a.key").chmod(bits)
    with pytest.raises(KeyFileError, match=rf"may be read by others \(mode 0{bits:o}\)") as caught:
        keys.read_pair(tmp_path / "a.key")
    assert caught.value.hint.startswith("chmod 600")


@pytest.mark.parametrize("text", ["", 'public = "x"', "secret", "x" * 70_000, "\x00\xff"])
def test_malformed_key_files_are_typed_errors(tmp_path, text):
    file = tmp_path / "x.key"
    file.write_text(text)
    file.chmod(0o600)
    for read in (keys.read_pair, keys.read_public):
        with pytest.raises(KeyFileError):
            read(file)


def test_allowed_keys(tmp_path):
    file = tmp_path / "allowed.keys"
    one = Allowed(keys.new_pair(tmp_path, "a").public, "game-*", ("game", "spool"))
    two = Allowed(keys.new_pair(tmp_path, "b").public, "stats", ("*",))
    file.write_text("# who may connect\n\n")
    keys.allow(file, one)
    keys.allow(file, two)
    assert keys.read_allowed(file) == [one, two]
    for line, why in (
        ("x y", "2 fields instead of 3"),
        ("x y z", "not"),
        (f"{'0' * 40} {'n' * 129} r", "over 128"),
    ):
        file.write_text("\n" + line)
        with pytest.raises(KeyFileError, match=f":2: .*{why}"):
            keys.read_allowed(file)


def test_a_keyring_reads_what_the_configuration_names(tmp_path):
    for name in ("node", "hub", "stats"):
        keys.new_pair(tmp_path, name)
    keys.new_secret(tmp_path / "token.secret")
    keys.new_secret(tmp_path / "netcode.key")
    made = ring(tmp_path, "curve = true\n")
    own, hub = keys.read_pair(tmp_path / "node.key"), keys.read_public(tmp_path / "hub.pub")
    assert made.node() == NodeKeys(own.public, own.secret, hub)
    assert made.publisher().server_public == keys.read_public(tmp_path / "stats.pub")
    assert len(made.token_secret()) == len(made.netcode_key()) == 32
    assert made.token_secret() != made.netcode_key()
    assert ring(tmp_path).node() is None


def test_credentials_of_the_service_manager_go_first(tmp_path):
    folder = tmp_path / "credentials"
    keys.new_secret(tmp_path / "token.secret")
    keys.new_secret(folder / "token.secret")
    (folder / "token.secret").chmod(0o440)
    credentials = ring(tmp_path, CREDENTIALS_DIRECTORY=str(folder))
    assert credentials.token_secret().hex() == (folder / "token.secret").read_text().strip()
    assert ring(tmp_path).token_secret() != credentials.token_secret()
    # Only there: beside a configuration file the group is anybody.
    (tmp_path / "token.secret").chmod(0o440)
    with pytest.raises(KeyFileError, match="may be read by others"):
        ring(tmp_path).token_secret()


@pytest.mark.parametrize(
    ("ask", "file", "words"),
    [
        (Keyring.token_secret, "token.secret", "token.secret --kind secret"),
        (Keyring.netcode_key, "netcode.key", "netcode.key --kind secret"),
        (Keyring.pair, "node.key", "node"),
        (Keyring.allowed, "allowed.keys", "NAME --allow PATTERN"),
    ],
)
def test_a_missing_file_comes_with_the_command_that_makes_it(tmp_path, monkeypatch, ask, file, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyFileError, match=f"{file} can't be read") as caught:
        ask(ring(tmp_path))
    assert caught.value.hint == f"make it with: zmqgame-cli keys new {words}"
    words = words.replace("PATTERN", "*").split()
    assert main(["keys", "new", *words, "--dir", str(tmp_path)]) == 0
    assert ask(ring(tmp_path))


@given(st.binary(min_size=32, max_size=32))
def test_any_key_survives_its_text(data):
    assert keys.decode(keys.encode(data)) == data
    assert keys.encode(data) == z85.encode(data).decode()


@given(st.text(max_size=60))
def test_any_text_is_a_key_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        assert len(keys.decode(text)) == 32


def test_a_second_step_that_was_cut_off_can_be_done_again(tmp_path, monkeypatch):
    old = keys.new_pair(tmp_path, "game")
    keys.allow(tmp_path / "allowed.keys", Allowed(old.public, "game-*", ("*",)))
    begun = rotation.begin(tmp_path, "game")

    def killed(*_words):
        raise KeyboardInterrupt

    for step in ("rewrite", "revoke", "pairs_text"):
        with monkeypatch.context() as patch:
            patch.setattr(rotation, step, killed)
            with pytest.raises(KeyboardInterrupt):
                rotation.finish(tmp_path, "game")
    rotation.finish(tmp_path, "game")
    assert [entry.public for entry in keys.read_allowed(tmp_path / "allowed.keys")] == [begun.new]
    assert keys.read_publics(tmp_path / "game.pub") == [begun.new]


def test_a_rotation_has_two_steps_with_both_keys_valid_between(tmp_path):
    old = keys.new_pair(tmp_path, "game")
    other = keys.new_pair(tmp_path, "other")
    allowed = tmp_path / "allowed.keys"
    allowed.write_text("# who\n")
    for entry in (
        Allowed(old.public, "game-*", ("game",)),
        Allowed(other.public, "*", ("*",)),
        Allowed(old.public, "spool:game-*", ("spool",)),
    ):
        keys.allow(allowed, entry)
    before = keys.read_allowed(allowed)
    begun = rotation.begin(tmp_path, "game")
    new, *rest = keys.read_pairs(tmp_path / "game.key")
    assert (rest, new.public, begun.old) == ([old], begun.new, old.public)
    assert keys.read_pair(tmp_path / "game.key") == new
    assert keys.read_publics(tmp_path / "game.pub") == [new.public, old.public]
    assert keys.read_allowed(allowed)[:3] == before
    assert {(each.pattern, each.roles) for each in begun.lines} == {
        ("game-*", ("game",)),
        ("spool:game-*", ("spool",)),
    }
    assert mode(tmp_path / "game.key") == 0o600
    with pytest.raises(KeyFileError, match="under way"):
        rotation.begin(tmp_path, "game")
    rotation.finish(tmp_path, "game")
    assert keys.read_pairs(tmp_path / "game.key") == [new]
    assert keys.read_publics(tmp_path / "game.pub") == [new.public]
    assert {each.public for each in keys.read_allowed(allowed)} == {other.public, new.public}
    assert allowed.read_text().startswith("# who\n")
    assert mode(tmp_path / "game.key") == 0o600
    with pytest.raises(KeyFileError, match="no rotation is under way"):
        rotation.finish(tmp_path, "game")


def test_nodes_read_their_keys_again_and_try_the_trusted_servers_in_turn(tmp_path):
    for name in ("node", "hub"):
        keys.new_pair(tmp_path, name)
    made = ring(tmp_path, "curve = true\n").node()
    assert made.attempt(5).server_public == made.server_public
    rotation.begin(tmp_path, "hub")
    new, old = keys.read_publics(tmp_path / "hub.pub")
    assert [made.attempt(number).server_public for number in range(3)] == [new, old, new]
    own = rotation.begin(tmp_path, "node").new
    assert made.attempt(0).public == own
    (tmp_path / "hub.pub").unlink()
    assert made.attempt(0).server_public == made.server_public


def test_keys_by_the_command_line(tmp_path, capsys):
    def run(*words, code=0):
        assert main(["keys", *words, "--dir", str(tmp_path)]) == code
        return capsys.readouterr()

    run("new", "hub")
    run("new", "game", "--allow", "game-*", "--roles", "game")
    assert "spool" in run("allow", "game", "spool:*", "--roles", "spool").out
    rotated = run("rotate", "game").out
    assert "--finish" in rotated
    assert rotated.count("added to") == 2
    assert "new, rotating" in run("list").out
    assert run("list").out == run("show").out
    assert run("rotate", "game", "--finish").out.count("taken out of") == 2
    assert "is not in" in run("revoke", "hub", code=2).err
    assert run("revoke", "game").out.count("revoked in") == 2
    assert keys.read_allowed(tmp_path / "allowed.keys") == []
    assert "no key" in run("revoke", "nobody", code=2).err
    secret = keys.encode(keys.read_pair(tmp_path / "hub.key").secret)
    everything = "".join(run(*words).out for words in (["list"], ["list", "--json"], ["rotate", "hub"]))
    assert secret not in everything
