"""A whole backend under CURVE, playing: no secret in any log, command line, environment or answer."""

import base64
import json
from pathlib import Path

from zmqgame_bus import keys
from zmqgame_bus.config import load
from zmqgame_bus.keys import Allowed, Keyring
from zmqgame_bus.node import Node

from tests.cluster import Cluster, until
from tests.players import QUICK

NAMES = ("hub", "stats", "manager", "game-1", "bots", "watch")


def make_keys(folder: Path) -> None:
    for name in NAMES:
        pair = keys.new_pair(folder, name)
        if name != "hub":
            keys.allow(folder / "allowed.keys", Allowed(pair.public, "*", ("*",)))


def secrets_in(folder: Path) -> dict[str, bytes]:
    found = {name: keys.read_pair(folder / f"{name}.key").secret for name in NAMES}
    for name in ("token.secret", "netcode.key"):
        found[name] = bytes.fromhex((folder / name).read_text())
    return found


def spellings(secret: bytes) -> list[bytes]:
    """Every way in which one shows by accident."""
    return [
        secret,
        secret.hex().encode(),
        keys.encode(secret).encode(),
        json.dumps(keys.encode(secret)).strip('"').encode(),
        base64.b64encode(secret).rstrip(b"="),
        repr(secret)[2:-1].encode(),
        repr(list(secret))[1:-1].encode(),
    ]


def logs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.log")}


def shown(cluster: Cluster) -> dict[str, bytes]:
    texts = {}
    for name, running in cluster.running.items():
        for what in ("cmdline", "environ"):
            texts[f"{name} {what}"] = Path(f"/proc/{running.process.pid}/{what}").read_bytes()
    return texts


async def test_no_secret_is_shown_by_a_whole_backend(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, **QUICK, **{"security.curve": "true"})
    make_keys(tmp_path)
    texts = {}
    try:
        for role, name in (("hub", "hub"), ("manager", "manager"), ("game", "game-1"), ("bots", "bots")):
            extra = {"bots.count": "4"} if role == "bots" else {}
            await cluster.start(role, name, **{"security.key_file": f"{name}.key", **extra})
        (tmp_path / "watch.toml").write_text('[security]\ncurve = true\nkey_file = "watch.key"\n')
        found = Keyring(load(tmp_path / "watch.toml", environ={}), {}).node()
        async with Node("watch", cluster.hub_endpoint, keys=found) as watch:

            async def racing() -> bool:
                answer = await watch.request("bots", '{"op": "status"}', timeout_s=60)
                texts["bots status"] = answer.payload
                return json.loads(answer.payload)["racing"] > 0

            await until(racing, "the bots race")
            for what in ("status", "nodes", "players"):
                texts[what] = repr(await watch.query(what)).encode()
        texts |= shown(cluster)
        cluster.kill("game-1")
    finally:
        cluster.close()
    texts |= logs(tmp_path)
    assert {"hub.log", "manager.log", "game-1.log", "bots.log"} <= set(texts)
    assert len(texts) > 12
    for name, secret in secrets_in(tmp_path).items():
        for spelling in spellings(secret):
            for where, text in texts.items():
                assert spelling not in text, f"the secret of {name} is in {where}"
