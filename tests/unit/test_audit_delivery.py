"""The accounts of `audit delivery`: what agrees, and what does not."""

from zmqgame.cli.audit import accounts
from zmqgame_bus.sums import sums
from zmqgame_native import message_hash, node_key

KEY = node_key("shop")


def rows(*sides):
    """(kind, host, seqs) as ClickHouse answers SUMS_SQL."""
    found = []
    for kind, host, seqs in sides:
        total = sum(message_hash(KEY, 1, seq)[0] for seq in seqs) % 2**64
        found.append(
            {
                "kind": kind,
                "sender": f"0x{KEY:016x}",
                "named": "shop",
                "host": host,
                "total": str(len(seqs)),
                "ids": str(total),
                "recent": "0",
            }
        )
    return found


def only(*sides, waiting=()):
    (account,) = accounts(rows(*sides), sums((KEY, 1, seq) for seq in waiting))
    return account


def test_acked_is_handled_or_waits():
    account = only(
        ("delivered", "game-1", [1, 2]), ("stored", "", [3, 4]), ("handled", "game-1", [1, 2, 3]), waiting=[4]
    )
    assert account.agrees
    assert (account.acked.messages, account.handled.messages, account.mailbox.messages) == (4, 3, 1)


def test_one_lost_shows():
    account = only(("delivered", "game-1", [1, 2, 3]), ("handled", "game-1", [1, 3]))
    assert not account.agrees
    assert (account.lost, account.duplicated) == (1, 0)


def test_one_doubled_shows():
    account = only(("delivered", "game-1", [1, 2]), ("handled", "game-1", [1, 2, 2]))
    assert (account.agrees, account.lost, account.duplicated) == (False, 0, 1)


def test_one_lost_and_one_doubled_show_although_the_counts_agree():
    account = only(("delivered", "game-1", [1, 2, 3]), ("handled", "game-1", [1, 1, 3]))
    assert account.difference == 0
    assert (account.agrees, account.lost, account.duplicated) == (False, 1, 1)


def test_hosts_without_records_are_left_out():
    account = only(
        ("delivered", "game-1", [1]),
        ("handled", "game-1", [1]),
        ("delivered", "billing", [2]),
        ("stored", "", [3]),
        ("taken", "billing", [3]),
    )
    assert account.agrees
    assert account.elsewhere == 2


def test_what_was_deferred_has_another_id():
    assert accounts([], sums([(node_key("deferred"), 1, 1)])) == []
