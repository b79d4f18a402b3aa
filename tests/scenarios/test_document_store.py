"""The scenarios of BUS.md section 12 for the document store: what a database without transactions is asked.

A proxy between a store and the database holds, cuts or delays one named command. A store that is no longer
used is a hub that was killed; one whose command is held is a hub that was stopped.
"""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from random import Random

import pymongo
import pytest
from bson import Int64, ObjectId
from zmqgame_bus.errors import Replaced, StoreUnavailable
from zmqgame_bus.mongo import MongoMailbox

from tests.mongod import Proxy, deletes, finds, fresh_name, inserts

KEY = 77
WAIT_S = 60.0


class Hubs:
    """Stores of one database, each as a hub of its own: with a proxy, or straight."""

    def __init__(self, mongod) -> None:
        self.mongod = mongod
        self.name = fresh_name()
        self.proxies: list[Proxy] = []
        self.stores: list[MongoMailbox] = []
        self.pool = ThreadPoolExecutor(4)
        self.plain = pymongo.MongoClient(mongod.url(self.name))
        self.database = self.plain.get_default_database()

    def url(self, port: int = 0) -> str:
        """Connections end when a fault ends them, and not because the machine stands still."""
        url = self.mongod.url(self.name, port)
        patience = "serverSelectionTimeoutMS=60000&connectTimeoutMS=60000&socketTimeoutMS=120000"
        return f"{url}{'&' if '?' in url else '?'}{patience}"

    def store(self, epoch: int, *, opened: bool = True) -> MongoMailbox:
        store = MongoMailbox(self.url())
        self.stores.append(store)
        if opened:
            store.run([("open", epoch, 0), ("know", "p")])
        return store

    def faulty(self, epoch: int, *, opened: bool = True) -> tuple[MongoMailbox, Proxy]:
        proxy = Proxy(self.mongod.port)
        self.proxies.append(proxy)
        store = MongoMailbox(self.url(proxy.port))
        self.stores.append(store)
        if opened:
            store.run([("open", epoch, 0), ("know", "p")])
        return store, proxy

    def later(self, work: Callable[[], object]) -> Future:
        return self.pool.submit(work)

    def count(self, collection: str, **query: object) -> int:
        return self.database[f"mailbox_{collection}"].count_documents(query)

    def close(self) -> None:
        for proxy in self.proxies:
            proxy.close()
        for store in self.stores:
            store.close()
        self.pool.shutdown()
        self.plain.drop_database(self.name)
        self.plain.close()


@pytest.fixture
def hubs(mongod) -> Iterator[Hubs]:
    hubs = Hubs(mongod)
    yield hubs
    hubs.close()


def append(seq: int) -> tuple:
    return ("append", "p", KEY, 1, seq, 0, 0, b"m%d" % seq, False)


def logout(seq: int) -> tuple:
    return ("logout", "p", [(KEY, 1, seq)])


def seqs(store: MongoMailbox) -> list[int]:
    [(_, rows, end)] = store.run([("read", "p", 0, 100)])
    assert end
    assert all(row[6] == b"m%d" % row[3] for row in rows)
    return [row[3] for row in rows]


def settle_all(store: MongoMailbox) -> None:
    """The player handles everything, and the mailbox is empty."""
    store.run([("settle", "p", 1 << 62)])
    assert seqs(store) == []


def test_paused_hub_commits_after_seal(hubs: Hubs) -> None:  # [23]
    old, proxy = hubs.faulty(1)
    commit = proxy.fault(inserts("chain", "commit"), "hold")
    late = hubs.later(lambda: old.run([append(1)]))
    assert commit.met.wait(WAIT_S)
    new = hubs.store(2)
    assert seqs(new) == []  # the old row is void: its batch has no commit
    commit.release()
    with pytest.raises(Replaced, match="hub epoch 2, this is 1"):
        late.result(WAIT_S)
    assert seqs(new) == []
    assert new.run([append(1)]) == [("appended",)]  # the sender had no receipt, so it sends again
    assert seqs(new) == [1]
    settle_all(new)


def test_paused_hub_commits_before_seal(hubs: Hubs) -> None:
    old, old_proxy = hubs.faulty(1)
    new, new_proxy = hubs.faulty(2, opened=False)
    commit = old_proxy.fault(inserts("chain", "commit"), "hold")
    seal = new_proxy.fault(inserts("chain", "seal"), "hold")
    stored = hubs.later(lambda: old.run([append(1)]))
    assert commit.met.wait(WAIT_S)
    opened = hubs.later(lambda: new.run([("open", 2, 0)]))
    assert seal.met.wait(WAIT_S)  # the new hub has read the chain
    commit.release()
    assert stored.result(WAIT_S) == [("appended",)]
    seal.release()
    assert opened.result(WAIT_S)[0][0] == "opened"
    assert seqs(new) == [1]  # the receipt was true
    with pytest.raises(Replaced):
        old.run([append(2)])
    assert seqs(new) == [1]
    settle_all(new)


def test_a_seal_in_a_tidied_gap_does_not_count(hubs: Hubs) -> None:
    """The old hub goes on past its clean-up of the chain while the seal is under way."""
    old, _ = hubs.faulty(1)
    old.run([append(1)])
    new, proxy = hubs.faulty(2, opened=False)
    seal = proxy.fault(inserts("chain", "seal"), "hold")
    opened = hubs.later(lambda: new.run([("open", 2, 0)]))
    assert seal.met.wait(WAIT_S)
    for seq in range(2, 90):
        assert old.run([append(seq)]) == [("appended",)]
    assert hubs.count("chain", kind="commit") < 60
    seal.release()
    assert opened.result(WAIT_S)[0][0] == "opened"
    assert seqs(new) == list(range(1, 90))
    with pytest.raises(Replaced):
        old.run([append(90)])
    settle_all(new)


def test_half_a_batch_is_void(hubs: Hubs) -> None:
    old = hubs.store(1)
    old.run([append(1)])
    [row] = hubs.database["mailbox_rows"].find()
    # m2 and m3 in one batch: the hub was killed when only m3 had landed.
    half = {"_id": ObjectId(), "seq": Int64(row["seq"] + 2), "n": Int64(2 << 16 | 1), "payload": b"m3"}
    hubs.database["mailbox_rows"].insert_one({**row, **half})
    new = hubs.store(2)
    assert seqs(new) == [1]
    assert new.run([append(2), append(3)]) == [("appended",)] * 2
    assert seqs(new) == [1, 2, 3]
    settle_all(new)
    assert hubs.count("rows") == 0


def test_void_row_does_not_swallow_resend(hubs: Hubs) -> None:
    old, proxy = hubs.faulty(1)
    proxy.fault(inserts("chain", "commit"), "cut")
    with pytest.raises(StoreUnavailable):
        old.run([append(1)])
    assert hubs.count("rows") == 1
    new, proxy = hubs.faulty(2)
    commit = proxy.fault(inserts("chain", "commit"), "hold")
    stored = hubs.later(lambda: new.run([append(1)]))
    assert commit.met.wait(WAIT_S)
    assert hubs.count("rows", run=Int64(2 << 31 | 1)) == 1  # its row is in before `stored`
    commit.release()
    assert stored.result(WAIT_S) == [("appended",)]
    assert seqs(new) == [1]
    settle_all(new)


STEPS = {
    "rows": inserts("rows"),
    "marks": inserts("marks"),
    "commit": inserts("chain", "commit"),
    "rows deleted": deletes("rows"),
    "marks deleted": deletes("marks"),
    "claim": inserts("chain", "claim"),
    "seal": inserts("chain", "seal"),
}


@pytest.mark.parametrize("how", ["cut", "late", "unanswered"])
@pytest.mark.parametrize("step", STEPS)
def test_store_connection_lost_in_batch(hubs: Hubs, step: str, how: str) -> None:
    """Each command of a batch is lost before or after it was carried out, or comes late; then a repeat."""
    store, proxy = hubs.faulty(1)
    store.run([append(1), logout(1), append(2)])  # a mark that the next one supersedes
    fault = proxy.fault(STEPS[step], how)
    if step in ("claim", "seal"):  # part of opening again
        proxy.fault(inserts("rows"), "cut")
    batch = [append(3), logout(2), append(4)]
    for _ in range(4):
        try:
            done = store.run(batch)
            break
        except StoreUnavailable:
            continue
    assert fault.met.is_set()
    assert [each[0] for each in done] == ["appended", "done", "appended"]
    assert seqs(store) == [3, 4]
    if how == "late":
        fault.release()  # the old operation is let through, long after
        assert seqs(store) == [3, 4]
        assert store.run([append(5)]) == [("appended",)]
        assert seqs(store) == [3, 4, 5]
    new = hubs.store(2)
    left = seqs(new)
    assert left == ([3, 4, 5] if how == "late" else [3, 4])
    open_runs = set(hubs.database["mailbox_chain"].distinct("run"))
    sealed = set(hubs.database["mailbox_chain"].distinct("run", {"kind": "seal"}))
    late_claims = 1 if (step, how) == ("claim", "late") else 0
    assert len(open_runs - sealed) <= 1 + late_claims  # one live run
    settle_all(new)


def test_row_left_below_mark_is_not_shown(hubs: Hubs) -> None:  # [31]
    old, proxy = hubs.faulty(1)
    old.run([append(1), append(2)])
    proxy.fault(deletes("rows"), "cut")
    with pytest.raises(StoreUnavailable):
        old.run([logout(1)])
    assert hubs.count("rows") == 2
    new = hubs.store(2)
    assert seqs(new) == [2]
    assert hubs.count("rows") == 1  # and the row is gone
    assert new.run([append(1)]) == [("passed",)]
    assert seqs(new) == [2]
    settle_all(new)


def test_void_mark_has_no_logout_done(hubs: Hubs) -> None:  # [31]
    old, proxy = hubs.faulty(1)
    old.run([append(1)])
    commit = proxy.fault(inserts("chain", "commit"), "hold")
    done = hubs.later(lambda: old.run([logout(1)]))
    assert commit.met.wait(WAIT_S)
    assert hubs.count("marks") == 1
    new = hubs.store(2)
    commit.release()
    with pytest.raises(Replaced):
        done.result(WAIT_S)
    assert seqs(new) == [1]  # a void mark hides nothing
    assert new.run([logout(1)]) == [("done",)]  # the node repeats it
    assert seqs(new) == []
    assert hubs.count("rows") == 0


@pytest.mark.parametrize("last", ["rows", "marks"])
def test_trim_takes_rows_first(hubs: Hubs, last: str) -> None:  # [24]
    old, proxy = hubs.faulty(1)
    old.run([append(1)])
    proxy.fault(deletes("rows"), "cut")
    with pytest.raises(StoreUnavailable):
        old.run([logout(1)])  # a row is left below a mark that counts
    second, proxy = hubs.faulty(2, opened=False)
    second.run([("open", 2, 0)])
    proxy.fault(deletes(last), "cut")
    with pytest.raises(StoreUnavailable):
        second.run([("trim", "p", KEY, 1, 1)])  # killed between its deletes
    assert hubs.count("marks") == 1
    assert hubs.count("rows") == (1 if last == "rows" else 0)
    new = hubs.store(3)
    assert seqs(new) == []
    assert new.run([("trim", "p", KEY, 1, 1)]) == [("done",)]
    assert hubs.count("marks") == hubs.count("rows") == 0


def test_two_hubs_one_epoch(hubs: Hubs) -> None:  # [41]
    first, proxy = hubs.faulty(5, opened=False)
    chain = proxy.fault(finds("chain"), "hold")
    opened = hubs.later(lambda: first.run([("open", 5, 0), ("know", "p")]))
    assert chain.met.wait(WAIT_S)  # its claim is in, and it has read nothing
    second = hubs.store(5, opened=False)
    with pytest.raises(Replaced, match="hub epoch 5"):
        second.run([("open", 5, 0)])
    chain.release()
    assert opened.result(WAIT_S)[0][0] == "opened"
    with pytest.raises((Replaced, StoreUnavailable)):
        second.run([append(9)])
    assert first.run([append(1)]) == [("appended",)]
    assert seqs(first) == [1]
    settle_all(first)


@pytest.mark.parametrize("step", ["promoted", "commit", "deferred deleted"])
@pytest.mark.parametrize("how", ["cut", "unanswered"])
def test_deferred_message_becomes_a_row_once(hubs: Hubs, step: str, how: str) -> None:  # [37]
    matches = {
        "promoted": inserts("promoted"),
        "commit": inserts("chain", "commit"),
        "deferred deleted": deletes("deferred"),
    }[step]
    old, proxy = hubs.faulty(1)
    old.run([("defer", "p", KEY, 1, 1, 100, 0, 0, b"m1", True), append(2)])
    proxy.fault(matches, how)
    with pytest.raises(StoreUnavailable):
        old.run([("due", 100, 10)])
    new = hubs.store(2)
    new.run([("due", 100, 10)])
    [(_, rows, _)] = new.run([("read", "p", 0, 10)])
    assert [row[6] for row in rows] == [b"m2", b"m1"]
    assert new.run([("due", 100, 10)]) == [("due", [], 0)]
    assert hubs.count("deferred") == hubs.count("promoted") == 0
    settle_all(new)


class Sender:
    """Sends 1, 2, 3 ... in order and again what has no receipt; knows what was confirmed and what handled."""

    def __init__(self) -> None:
        self.next = 1
        self.unconfirmed: list[int] = []
        self.stored: set[int] = set()
        self.settled = 0

    def batch(self, random: Random) -> list[tuple]:
        """What a hub would issue: all that has no receipt in old order, then something new."""
        for _ in range(random.randrange(3)):
            self.unconfirmed.append(self.next)
            self.next += 1
        return [append(seq) for seq in self.unconfirmed]

    def confirmed(self) -> None:
        self.stored |= set(self.unconfirmed)
        self.unconfirmed = []


def turn(store: MongoMailbox, sender: Sender, random: Random) -> None:
    """One batch of a hub: appends, now and then what its player handled."""
    store.run([("know", "p"), *sender.batch(random)])
    sender.confirmed()
    if random.random() < 0.3:
        [(_, rows, _)] = store.run([("read", "p", 0, 100)])
        found = [row[3] for row in rows]
        assert found == sorted(set(found))
        assert sender.stored - set(found) <= set(range(sender.settled + 1)), "stored, and not there"
        if rows:
            some = random.randrange(len(rows))
            sender.settled = max(sender.settled, rows[some][3])  # the client has handled it, whatever follows
            if random.random() < 0.5:
                store.run([("settle", "p", rows[some][0])])
            else:
                store.run([logout(rows[some][3])])


@pytest.mark.parametrize("seed", range(12))
def test_no_fault_loses_or_doubles_what_was_stored(hubs: Hubs, seed: int) -> None:
    """Faults at random commands, late commands let through at random, hubs taking over from stopped ones."""
    random, sender = Random(seed), Sender()
    epoch, late, stopped = 1, [], []
    store, proxy = hubs.faulty(epoch)
    for _ in range(30):
        chance = random.random()
        if chance < 0.4:
            step, how = random.choice(list(STEPS.values())), random.choice(["cut", "late", "unanswered"])
            late.append(proxy.fault(step, how, skip=random.randrange(2)))
        elif chance < 0.5:
            # Stopped in a commit; another hub takes over, and later the old one goes on.
            held = proxy.fault(inserts("chain", "commit"), "hold")
            old, again = store, [("know", "p"), *sender.batch(random), append(sender.next)]
            sender.unconfirmed.append(sender.next)
            sender.next += 1
            result = hubs.later(lambda old=old, again=again: old.run(again))
            for _ in range(200):
                if held.met.wait(0.05) or result.done():
                    break
            stopped.append((held, result))
            epoch += 1
            store, proxy = hubs.faulty(epoch)
        elif chance < 0.6:
            for fault in late:
                if fault.how == "late" and fault.met.is_set() and not fault.done.is_set():
                    fault.release()
        elif chance < 0.7 and stopped:
            held, result = stopped.pop(random.randrange(len(stopped)))
            held.go()
            with pytest.raises((Replaced, StoreUnavailable)):
                result.result(WAIT_S)
        with contextlib.suppress(StoreUnavailable):
            turn(store, sender, random)
    for fault in late:
        fault.go()
    for held, result in stopped:
        held.go()
        with pytest.raises((Replaced, StoreUnavailable)):
            result.result(WAIT_S)
    last = hubs.store(epoch + 1)
    last.run([append(seq) for seq in sender.unconfirmed])
    sender.confirmed()
    left = seqs(last)
    assert left == sorted(set(left))
    assert sender.stored - set(left) <= set(range(sender.settled + 1))
    settle_all(last)
