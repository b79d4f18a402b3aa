"""Wrong CURVE keys: a node hears which side is wrong, and does not take the hub for missing."""

import pytest
from zmqgame_bus.errors import CannotReachHub, Refused
from zmqgame_bus.keys import NodeKeys
from zmqgame_bus.node import Node
from zmqgame_native import curve_keypair

from tests.bus_tools import transport  # noqa: F401
from tests.support.hub import running_hub

pytestmark = pytest.mark.usefixtures("transport")

HUB, LISTED, STRANGER = curve_keypair(), curve_keypair(), curve_keypair()


def keys(pair, server=HUB):
    return NodeKeys(pair[0], pair[1], server[0])


async def refusal(endpoint, node_keys, tmp_path, error=Refused):
    """What `start` says at its end; on a slow machine a second is too short to hear from the hub."""
    for timeout_s in (1.0, 5.0, 30.0):
        node = Node("game-1", endpoint, state_dir=tmp_path / "node", keys=node_keys)
        try:
            with pytest.raises((Refused, CannotReachHub)) as caught:
                await node.start(timeout_s)
        finally:
            await node.close()
        if isinstance(caught.value, error):
            break
    assert isinstance(caught.value, error)
    return caught.value


@pytest.mark.parametrize(
    ("node_keys", "text"),
    [
        (keys(STRANGER), "the hub does not admit this node's key"),
        (keys(LISTED, server=STRANGER), "this node's copy of the hub's public key may be wrong"),
        (None, "the hub wants CURVE keys"),
    ],
    ids=["not_allowed", "wrong_server_key", "no_keys"],
)
async def test_a_hub_with_curve_says_what_is_wrong(node_keys, text, tmp_path):
    allowed = [(LISTED[0], "game-*", ["*"])]
    with running_hub(tmp_path, curve_secret_key=HUB[1], allowed=allowed) as hub:
        error = await refusal(hub.endpoints[0], node_keys, tmp_path)
        assert str(error) == f"the hub at {hub.endpoints[0]} refuses this node: " + (
            f"the hub broke off the handshake: {text}" if "copy" in text else text
        )
        assert "hub_public_key_file" in error.hint
        async with Node("game-1", hub.endpoints[0], state_dir=tmp_path / "node", keys=keys(LISTED)) as node:
            assert node.up


async def test_curve_towards_a_plain_hub_is_told(tmp_path):
    with running_hub(tmp_path) as hub:
        error = await refusal(hub.endpoints[0], keys(LISTED), tmp_path)
        endpoint = hub.endpoints[0]
    assert "this node uses CURVE and the hub does not" in str(error)
    # The same node without a hub: nothing of that is left.
    error = await refusal(endpoint, keys(LISTED), tmp_path, CannotReachHub)
    assert "CURVE" not in str(error)
