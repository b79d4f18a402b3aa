"""The mailbox in MongoDB, or in what speaks its protocol with less (BUS.md section 11).

Used are inserts that a unique key may refuse, deletes that may be repeated, and finds: no transactions, no
updates, no find-and-modify, no TTL, no clock and no retries of the driver. No document is ever changed. All
writes: majority and journal, whatever the durability level; all reads: primary, majority, in one causally
consistent session that began before the seals.

A batch of the hub is carried out in this order, each step awaited: what is remembered of its players is
completed (`mongo_players`), all documents go in, the commit makes them count (`mongo_chain`), payloads of
rows that were asked for are read, and only then is deleted what the commit superseded. Any failure leaves
an unknown outcome: everything remembered is forgotten, and the next batch begins with a new run.

Settling: a row that is deleted leaves a mark of its id, in the same batch's commit, unless `trim` said before
that its sender is done with it. So a resend of a settled message makes no new row, as on SQLite, also after a
restart of the hub.

Ids are kept less 2**63, so that the database's signed integers keep their order.
"""

from __future__ import annotations

import contextlib
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pymongo
from pymongo.client_session import ClientSession
from pymongo.errors import BulkWriteError, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from .errors import StoreUnavailable
from .limits import MONGO_REPLY_MS, MONGO_SELECT_MS, PROBLEM_TEXT_CHARS
from .mailbox import Operation, Result, shown_url
from .mongo_admin import admin, export
from .mongo_batch import Batch, make_indexes, table
from .mongo_chain import Chain
from .mongo_documents import Documents, Work
from .mongo_operations import Bounds, perform, players_of

__all__ = ["MongoMailbox"]

_CLOSE_S: Final = 2.0
"""How long closing tries to end the run: it is a courtesy, the next open does it as well."""


class MongoMailbox:
    """A mailbox in a document database. See zmqgame_bus.mailbox.Mailbox."""

    def __init__(
        self,
        url: str,
        *,
        max_bytes: int = 16 << 30,
        player_messages: int = 0,
        player_bytes: int = 0,
        password: str | None = None,
    ) -> None:
        """Read the URL; nothing is connected before the first operation."""
        self._name = shown_url(url)
        self._bounds = Bounds(max_bytes, player_messages, player_bytes)
        options: dict[str, Any] = {**_unless_said(url), "appname": "zmqgame-hub"}
        options |= {"retryWrites": False, "retryReads": False}
        if password:
            options["password"] = password
        try:
            self._client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(url, **options)
            name = self._client.get_default_database("zmqgame").name
        except (PyMongoError, ValueError, TypeError) as error:
            # The driver's text may quote a part of the URL that is a secret.
            kind = type(error).__name__
            raise StoreUnavailable(
                f"mailbox {self._name}: not a URL that can be used ({kind})",
                hint="write mongodb://USER@HOST:PORT/DATABASE?replicaSet=NAME; escape special characters",
            ) from None
        database = self._client.get_database(
            name,
            write_concern=WriteConcern("majority", j=True, wtimeout=MONGO_REPLY_MS),
            read_concern=ReadConcern("majority"),
            read_preference=ReadPreference.PRIMARY,
        )
        self._database = database
        self._chain = Chain(table(database, "chain"), f"mailbox {self._name}")
        self._documents = Documents(database, self._chain)
        self._session: ClientSession | None = None
        self._indexed = False
        self._epoch = 0

    # --- the connection ---------------------------------------------------------------------------

    def highest_epoch(self) -> int:
        """Return the highest hub epoch that was ever claimed in this store."""
        with self._known_outcome():
            return self._chain.highest_epoch(self._live_session())

    def holder(self) -> int:
        """Return the epoch of a hub that has the store, or was killed with it; 0 none."""
        with self._known_outcome():
            return self._chain.holder(self._live_session())

    def ask(self, question: str) -> str:
        """Answer a question of operators; without a claim the store is only looked at."""
        if self._chain.run:
            [(_, answer)] = self.run([("admin", question)])
            return str(answer)
        with self._known_outcome():
            session = self._live_session()
            self._chain.look(session)
            self._documents.look(session)
            work = Work(Batch(self._database, self._chain, session))
            return str(admin(self._documents, work, question)[1])

    def export(self) -> Iterator[dict[str, Any]]:
        """All that the store holds, as it is now and without a claim."""
        with self._known_outcome():
            session = self._live_session()
            self._chain.look(session)
            self._documents.look(session)
            yield {"hub_epoch": self._chain.highest_epoch(session), "last_due": self._chain.last_due(session)}
            yield from export(self._documents)

    def close(self) -> None:
        """End the run, so that who looks sees that no hub has the store, and let go of the connection."""
        with contextlib.suppress(PyMongoError):
            if self._chain.run and self._session is not None:
                with pymongo.timeout(_CLOSE_S):
                    self._chain.seal_own(self._session)
        self._forget()
        self._client.close()

    def _live_session(self) -> ClientSession:
        if self._session is None:
            self._session = self._client.start_session(causal_consistency=True)
        return self._session

    def _forget(self) -> None:
        """Nobody knows what the store has: begin anew."""
        self._chain.run = 0
        self._documents.forget()
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(PyMongoError):
                session.end_session()

    @contextlib.contextmanager
    def _known_outcome(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._forget()
            if isinstance(error, PyMongoError | OSError):
                raise StoreUnavailable(f"mailbox {self._name}: {_brief(error)}") from error
            raise

    # --- batches ----------------------------------------------------------------------------------

    def run(self, operations: Sequence[Operation]) -> list[Result]:
        """Run a batch; what it confirms is committed."""
        with self._known_outcome():
            if operations and operations[0][0] == "open":
                if operations[0][1] != self._epoch:
                    self._forget()
                self._epoch = operations[0][1]
            if not self._epoch:
                raise StoreUnavailable(f"mailbox {self._name}: not opened")
            session = self._live_session()
            if not self._chain.run:
                self._open_run(session)
            work = Work(Batch(self._database, self._chain, session))
            self._documents.load(work.batch, players_of(operations))
            for operation in operations:
                if work.batch.full:
                    work.write(self._documents)
                perform(self._documents, work, self._bounds, operation)
            work.write(self._documents)
            self._documents.fetch(work)
            work.batch.tidy()
            self._documents.players.shrink()
            return work.results

    def _open_run(self, session: ClientSession) -> None:
        """Claim a run and end the lower ones; only then read."""
        if not self._indexed:
            make_indexes(self._database)
            self._indexed = True
        self._chain.claim(self._epoch, session)
        self._documents.begin(session)


def _unless_said(url: str) -> dict[str, int]:
    """Bounds in time, where the URL names none."""
    said = {key.lower() for key, _ in urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query)}
    bounds = {
        "serverSelectionTimeoutMS": MONGO_SELECT_MS,
        "connectTimeoutMS": MONGO_SELECT_MS,
        "socketTimeoutMS": MONGO_REPLY_MS,
    }
    return {key: value for key, value in bounds.items() if key.lower() not in said}


def _brief(error: BaseException) -> str:
    """The driver's text without the description of the topology."""
    if isinstance(error, BulkWriteError):
        listed = [each.get("errmsg", "") for each in (error.details or {}).get("writeErrors", [])]
        return "; ".join(listed)[:PROBLEM_TEXT_CHARS] or "not written by the majority"
    text = re.sub(r",? ?(Timeout|full error|Topology Description): .*", "", str(error), flags=re.DOTALL)
    return text[:PROBLEM_TEXT_CHARS] or type(error).__name__
