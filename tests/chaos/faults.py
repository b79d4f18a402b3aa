"""The faults: each is a coroutine that does it, lets it last, and ends it. Its chance comes from the seed.

A fault holds the lock of each process that it acts on, so that one process has one fault at a time; faults of
different processes overlap as they come.
"""

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from tests.chaos.child import Child
from tests.chaos.stage import HOSTS, Stage
from tests.support.proxy import BOTH, DOWN, UP

Act = Callable[[Stage, random.Random], Awaitable[None]]

DEAD_S = 0.3
"""After so long without a byte a link is dead."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault by name."""

    name: str
    weight: int
    act: Act
    stores: tuple[str, ...]


FAULTS: dict[str, Fault] = {}


def fault(weight: int = 2, stores: tuple[str, ...] = ("sqlite", "ferretdb")) -> Callable[[Act], Act]:
    """Register a fault under its function's name; `weight` is its share of the draws."""

    def register(act: Act) -> Act:
        FAULTS[act.__name__] = Fault(act.__name__, weight, act, stores)
        return act

    return register


@contextlib.asynccontextmanager
async def only(*children: Child) -> AsyncIterator[None]:
    """Act on these processes alone."""
    async with contextlib.AsyncExitStack() as stack:
        for child in sorted(children, key=lambda each: each.name):
            await stack.enter_async_context(child.busy)
            await child.started()
        yield


async def _kill(child: Child, chance: random.Random, *, hold_s: float = 0.0) -> None:
    async with only(child):
        await child.kill(hold=True)
        await asyncio.sleep(chance.uniform(0, hold_s))
        child.release()
        await child.started()


async def _stop(child: Child, chance: random.Random) -> None:
    async with only(child):
        child.send_signal(signal.SIGSTOP)
        await asyncio.sleep(chance.uniform(0.1, 3 * DEAD_S))
        child.send_signal(signal.SIGCONT)


# --- processes -----------------------------------------------------------------------------------


@fault(weight=5)
async def hub_killed(stage: Stage, chance: random.Random) -> None:
    """kill -9 of the hub; its supervisor starts it again."""
    await _kill(stage.hub, chance, hold_s=0.3)


@fault(weight=2)
async def hub_killed_while_starting(stage: Stage, chance: random.Random) -> None:
    """kill -9 again and again, in the middle of its start or of the nodes' return."""
    for _ in range(chance.randint(2, 3)):
        await _kill(stage.hub, chance)
        await asyncio.sleep(chance.uniform(0.05, 0.6))


@fault(weight=1)
async def hub_restarted(stage: Stage, chance: random.Random) -> None:
    """SIGTERM: it drains, ends, and comes back."""
    async with only(stage.hub):
        await stage.hub.kill(signal.SIGTERM)
        await stage.hub.started()


@fault(weight=3)
async def hub_stopped(stage: Stage, chance: random.Random) -> None:
    """SIGSTOP for longer than the heartbeat; with SQLite it keeps the file's lock."""
    await _stop(stage.hub, chance)


@fault(weight=4)
async def host_killed(stage: Stage, chance: random.Random) -> None:
    """kill -9 of a hosting node."""
    await _kill(chance.choice(stage.named("g")), chance, hold_s=0.5)


@fault(weight=2)
async def all_hosts_killed(stage: Stage, chance: random.Random) -> None:
    """kill -9 of all hosting nodes at once."""
    await asyncio.gather(*(_kill(child, chance) for child in stage.named("g")))


@fault(weight=3)
async def host_stopped(stage: Stage, chance: random.Random) -> None:
    """SIGSTOP of a hosting node."""
    await _stop(chance.choice(stage.named("g")), chance)


@fault(weight=3)
async def sender_killed(stage: Stage, chance: random.Random) -> None:
    """kill -9 of a sender: what has no receipt is unknown."""
    await _kill(chance.choice(stage.named("s")), chance)


@fault()
async def sender_stopped(stage: Stage, chance: random.Random) -> None:
    """SIGSTOP of a sender."""
    await _stop(chance.choice(stage.named("s")), chance)


@fault(weight=3)
async def client_killed(stage: Stage, chance: random.Random) -> None:
    """kill -9 of a client that keeps its cursors on a disk."""
    await _kill(chance.choice(stage.named("c")), chance, hold_s=0.2)


@fault()
async def client_killed_and_memory_lost(stage: Stage, chance: random.Random) -> None:
    """kill -9 of a client whose memory ends with it: a new session."""
    child = chance.choice(stage.named("c"))
    async with only(child):
        await child.kill(hold=True)
        stage.lose_memory(child.name)
        child.release()
        await child.started()


@fault()
async def client_stopped(stage: Stage, chance: random.Random) -> None:
    """SIGSTOP of a client: it acks nothing."""
    await _stop(chance.choice(stage.named("c")), chance)


@fault(weight=1)
async def hub_and_host_killed(stage: Stage, chance: random.Random) -> None:
    """kill -9 of hub and hosting node in the same moment."""
    host = chance.choice(stage.named("g"))
    await asyncio.gather(_kill(stage.hub, chance), _kill(host, chance, hold_s=0.3))


@fault(weight=1)
async def hub_and_sender_killed(stage: Stage, chance: random.Random) -> None:
    """kill -9 of hub and sender in the same moment."""
    await asyncio.gather(_kill(stage.hub, chance), _kill(chance.choice(stage.named("s")), chance))


# --- connections ---------------------------------------------------------------------------------


@fault(weight=3)
async def link_cut(stage: Stage, chance: random.Random) -> None:
    """A node's connection is reset, up to five times, and refused for a while."""
    route = chance.choice(list(stage.routes.values()))
    for _ in range(chance.randint(1, 5)):
        route.cut(refuse=chance.random() < 0.3)
        await asyncio.sleep(chance.uniform(0.0, 0.2))
    route.mend()


@fault()
async def all_links_cut(stage: Stage, chance: random.Random) -> None:
    """All nodes lose the hub at once and come back at once."""
    for route in stage.routes.values():
        route.cut(refuse=True)
    await asyncio.sleep(chance.uniform(0.0, 0.8))
    for route in stage.routes.values():
        route.mend()


@fault(weight=3)
async def link_stalled(stage: Stage, chance: random.Random) -> None:
    """Nothing passes for a while, in one direction or both, then all of it."""
    route = chance.choice(list(stage.routes.values()))
    route.stall(*chance.choice([BOTH, (UP,), (DOWN,)]))
    await asyncio.sleep(chance.uniform(0.1, 3 * DEAD_S))
    route.mend()


@fault(weight=3)
async def link_swallows(stage: Stage, chance: random.Random) -> None:
    """A half-open link: what is written is confirmed by TCP and lost."""
    route = chance.choice(list(stage.routes.values()))
    route.swallow(*chance.choice([BOTH, (UP,), (DOWN,)]))
    await asyncio.sleep(chance.uniform(0.0, 2 * DEAD_S))
    route.mend()


@fault()
async def link_delayed(stage: Stage, chance: random.Random) -> None:
    """A long way: each piece late by up to 150 ms."""
    route = chance.choice(list(stage.routes.values()))
    route.delay(chance.uniform(0.01, 0.15))
    await asyncio.sleep(chance.uniform(0.2, 0.8))
    route.mend()


@fault()
async def partition(stage: Stage, chance: random.Random) -> None:
    """The wire of a hosting node in a network namespace is gone: packets vanish, nobody is told."""
    assert stage.namespace is not None
    stage.namespace.part()
    await asyncio.sleep(chance.uniform(0.1, 3 * DEAD_S))
    stage.namespace.join()


# --- players -------------------------------------------------------------------------------------


@fault(weight=1)
async def players_move(stage: Stage, chance: random.Random) -> None:
    """Many players attach elsewhere at once: newer logins win."""
    for _ in range(3):
        for player in stage.players:
            stage.tell_client_of(player, f"move {player} {chance.randrange(HOSTS)}")
        await asyncio.sleep(chance.uniform(0.0, 0.2))


@fault(weight=1)
async def players_leave(stage: Stage, chance: random.Random) -> None:
    """All players log out, messages are stored, all come back."""
    for player in stage.players:
        stage.tell_client_of(player, f"leave {player}")
    await asyncio.sleep(chance.uniform(0.1, 0.6))
    stage.say("c", "online")
