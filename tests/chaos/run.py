"""One run: cycle after cycle from one seed, its state in a folder, so that it can go on another day."""

import asyncio
import random
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from tests.chaos import store_faults  # noqa: F401 (registers its faults)
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.ledger import Totals
from tests.chaos.stage import HOSTS, Stage, Stuck

REST_S = 30.0
"""Without rest for so long after the last fault, something waits for ever."""
CYCLE_S = 0.6
RATE = {"sqlite": 150.0, "ferretdb": 40.0}
"""Messages a second of one sender; FerretDB reads whole collections, so some hundred rows are slow."""
STATE = "state.json"
LOOK_EVERY = 5
"""Cycles between two looks into the mailbox at rest."""
HUB = ("-m", "zmqgame_bus.hub")


@dataclass
class State:
    """What a run has to keep to go on."""

    seed: str
    store: str
    cycles: int = 0
    starts: dict[str, int] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    worst_recovery_ms: int = 0
    by_fault: dict[str, dict[str, int]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, folder: Path) -> "State":
        return cls(**orjson.loads((folder / STATE).read_bytes()))

    def save(self, folder: Path) -> None:
        made = folder / f"{STATE}.new"
        made.write_bytes(orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2))
        made.rename(folder / STATE)

    def found(self) -> int:
        """How much was found; a run ends when it grows, and a resumed one goes on."""
        return len(self.findings) + Totals(**self.totals).violations()

    def summary(self) -> dict[str, int]:
        names = ("acked", "unknown", "lost", "duplicated", "out_of_order")
        sums = {name: self.totals.get(name, 0) for name in names}
        return {"cycles": self.cycles, **sums, "worst_recovery_ms": self.worst_recovery_ms}


class Run:
    """The controller."""

    def __init__(
        self,
        folder: Path,
        state: State,
        *,
        hub_command: Sequence[str] = HUB,
        only: Sequence[str] = (),
        rest_s: float = REST_S,
    ) -> None:
        self.folder, self.state, self._rest_s = folder, state, rest_s
        self.stage = Stage(folder, state.seed, state.store, state.starts, list(hub_command))
        self._only = only
        self._log = (folder / "cycles.log").open("a", buffering=1)

    async def run(self, cycles: int) -> None:
        """Cycles until so many are done, one fails to rest, or a finding shows."""
        stage, state = self.stage, self.state
        stage.ledger.totals = Totals(**state.totals)
        try:
            await stage.start()
            state.skipped = dict(stage.skipped)
            for name, why in stage.skipped.items():
                print(f"skipped: {name}: {why}", flush=True)
            before = state.found()
            while state.cycles < cycles and state.found() == before:
                await self._cycle(state.cycles + 1)
                self._progress(cycles)
        finally:
            await stage.close()
            state.save(self.folder)
            self._log.close()

    def faults(self) -> list[Fault]:
        """What this machine and this store can have."""
        return [
            each
            for each in FAULTS.values()
            if self.state.store in each.stores
            and each.name not in self.stage.skipped
            and (not self._only or each.name in self._only)
        ]

    async def _cycle(self, number: int) -> None:
        """Traffic, faults, rest, judgement. All chance of a cycle comes from the seed and its number."""
        stage, state = self.stage, self.state
        chance = random.Random(f"{state.seed}/{number}")
        possible = self.faults()
        drawn = chance.choices(possible, [each.weight for each in possible], k=chance.choice([1, 1, 2, 2, 3]))
        plan = [(each, chance.uniform(0.05, 0.35), random.Random(chance.random())) for each in drawn]
        names = [each.name for each in drawn]
        self._note(f"cycle {number} of seed {state.seed}: {', '.join(names)}")
        stage.say("s", f"go {RATE[state.store]}")
        await asyncio.gather(
            self._watch(CYCLE_S), self._wander(chance), *(self._act(*planned) for planned in plan)
        )
        try:
            recovery_ms = round(await stage.rest(self._rest_s, self._note) * 1000)
            if number % LOOK_EVERY == 0:
                await stage.mailbox_is_empty(self._rest_s)
        except Stuck as error:
            recovery_ms = round(self._rest_s * 1000)
            stage.notes.append(str(error))
        stage.settle()
        self._keep(number, names, recovery_ms)

    async def _act(self, fault: Fault, after_s: float, chance: random.Random) -> None:
        await asyncio.sleep(after_s)
        began = time.monotonic()
        await fault.act(self.stage, chance)
        self._note(f"  {fault.name}: {time.monotonic() - began:.2f} s")

    def _note(self, text: str) -> None:
        self._log.write(f"{time.strftime('%H:%M:%S')}   {text}\n")

    async def _watch(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.stage.say("s", f"go {RATE[self.state.store]}")  # also those that were started meanwhile
            await asyncio.sleep(0.1)

    async def _wander(self, chance: random.Random) -> None:
        """Players move and leave in every cycle."""
        for _ in range(chance.randint(0, 4)):
            await asyncio.sleep(chance.uniform(0.0, 0.2))
            player = chance.choice(list(self.stage.players))
            if chance.random() < 0.4:
                self.stage.tell_client_of(player, f"leave {player}")
            else:
                self.stage.tell_client_of(player, f"move {player} {chance.randrange(HOSTS)}")

    def _keep(self, number: int, names: list[str], recovery_ms: int) -> None:
        stage, state = self.stage, self.state
        state.cycles = number
        state.totals = asdict(stage.ledger.totals)
        state.starts = {name: child.start_number for name, child in stage.children.items()}
        state.worst_recovery_ms = max(state.worst_recovery_ms, recovery_ms)
        for name in set(names):
            row = state.by_fault.setdefault(name, {"cycles": 0, "worst_recovery_ms": 0})
            row["cycles"] += 1
            row["worst_recovery_ms"] = max(row["worst_recovery_ms"], recovery_ms)
        found = stage.ledger.samples + stage.notes
        state.findings += [f"cycle {number} ({', '.join(names)}): {text}" for text in found]
        stage.ledger.samples, stage.notes = [], []
        self._note(f"  rest after {recovery_ms} ms; {state.totals['acked']} acked")
        state.save(self.folder)

    def _progress(self, cycles: int) -> None:
        state = self.state
        text = f"{state.cycles}/{cycles} cycles, {state.totals['acked']} acked, {state.totals['lost']} lost"
        if sys.stderr.isatty():
            print(f"\r{text}  ", end="", file=sys.stderr, flush=True)
        elif state.cycles % 20 == 0:
            print(text, file=sys.stderr, flush=True)


def execute(run: Run, cycles: int) -> int:
    """Run, print the details and, last, the one line that counts; the exit code."""
    try:
        asyncio.run(run.run(cycles))
    except KeyboardInterrupt:
        print(f"interrupted; go on with: make chaos RESUME={run.folder} CYCLES={cycles}")
    except Exception as error:
        traceback.print_exc()
        run.state.findings.append(f"cycle {run.state.cycles + 1}: {error!r}")
    state = run.state
    for text in state.findings:
        print(f"found: {text}")
    totals = Totals(**state.totals)
    details = {"by_fault": state.by_fault, "skipped": state.skipped, "totals": asdict(totals)}
    print(orjson.dumps(details, option=orjson.OPT_SORT_KEYS).decode())
    if state.found():
        print(f"again: make chaos SEED={state.seed} CYCLES={state.cycles + 1}; logs: {run.folder}")
    print(orjson.dumps(state.summary()).decode(), flush=True)
    return 1 if state.found() else 0
