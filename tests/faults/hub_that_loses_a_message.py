"""`zmqgame-hub`, except that one operator's message is confirmed as stored and never written."""

import sys

from zmqgame_bus import hub

open_configured = hub.open_configured


def is_greeting(operation):
    return operation[0] == "append" and b"hello " in operation[7]


class Forgetful:
    """A mailbox that answers `appended` for one append and does not run it."""

    def __init__(self, mailbox):
        self._mailbox = mailbox
        self._forgotten = False

    def __getattr__(self, name):
        return getattr(self._mailbox, name)

    def run(self, operations):
        at = next((index for index, operation in enumerate(operations) if is_greeting(operation)), None)
        if self._forgotten or at is None:
            return self._mailbox.run(operations)
        results = self._mailbox.run([*operations[:at], *operations[at + 1 :]])
        self._forgotten = True
        return [*results[:at], ("appended",), *results[at:]]


hub.open_configured = lambda *args, **kwargs: Forgetful(open_configured(*args, **kwargs))
sys.exit(hub.main())
