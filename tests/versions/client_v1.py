"""A node of protocol version 1, frozen: pyzmq, struct and nothing of ours.

Written from bus/PROTOCOL.md as it was then. It knows no later kind, flag or field and ends at the first one
that it sees; a hub of today must serve it in everything that version 1 had. Never changed: a test has its
hash. Prints one JSON line.
"""

import json
import struct
import sys
import time

import zmq

HELLO, SEND, SEND_GROUP, BROADCAST, REQUEST, REPLY, CANCEL = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07
LOGIN, REGISTER, LOGOUT, ACK, JOIN, LEAVE, SUBSCRIBE = 0x08, 0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E
PING, PONG, BYE, QUERY = 0x0F, 0x10, 0x11, 0x12
WELCOME, RECEIPT, GROUP_RECEIPT, BOUND, DELIVER, LOGOUT_DONE = 0x41, 0x42, 0x43, 0x44, 0x45, 0x46
DROP, FORGET, PRESENCE, CALL, ANSWER, CANCELLED, ERROR, JOINED = (
    0x47,
    0x48,
    0x49,
    0x4A,
    0x4B,
    0x4C,
    0x4D,
    0x4E,
)
KNOWN = {*range(WELCOME, JOINED + 1), PING, PONG}
TEXT, LAST = 0b001, 0b100
RESEND = DURABLE = SNAPSHOT = LAST
OUTCOMES = {1: "delivered", 2: "stored", 3: "expired", 4: "refused", 5: "busy"}


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<I", len(data)) + data


def message(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack("<IBBH", 8 + len(body), kind, flags, 0) + body


def node_key(name: str) -> int:
    """FNV-1a, 64 bits."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return value


class Fields:
    """Takes fields off the front of a message's body."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, layout: str) -> tuple:
        size = struct.calcsize("<" + layout)
        values = struct.unpack("<" + layout, self.data[:size])
        self.data = self.data[size:]
        return values

    def bytes(self) -> bytes:
        (length,) = self.take("I")
        value, self.data = self.data[:length], self.data[length:]
        return value

    def text(self) -> str:
        return self.bytes().decode()

    def event(self) -> tuple[int, str]:
        event = (*self.take("B"), self.text())
        self.text()
        return event

    def list(self, item) -> list:
        (count,) = self.take("I")
        return [item() for _ in range(count)]


class Foreign:
    def __init__(self, address: str, name: str) -> None:
        self.name = name
        self.epoch = time.time_ns() // 1_000_000
        self.seq = 1
        self.connection = 0
        self.address = address
        self.inbox: list[tuple[int, int, Fields]] = []

    def write(self, *messages: bytes) -> None:
        self.socket.send(b"".join(messages))  # one frame is one batch, without an empty delimiter

    def next(self, wanted: int) -> tuple[int, Fields]:
        """The next message of a kind; pings are answered, others wait."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            for index, (kind, flags, fields) in enumerate(self.inbox):
                if kind == wanted:
                    del self.inbox[index]
                    return flags, fields
            if self.socket.poll(200):
                self.split(self.socket.recv())
        raise SystemExit(f"no message {wanted:#x} in time, but {[hex(kind) for kind, *_ in self.inbox]}")

    def split(self, frame: bytes) -> None:
        while frame:
            length, kind, flags, zero = struct.unpack_from("<IBBH", frame)
            assert zero == 0
            assert 8 <= length <= len(frame)
            assert kind in KNOWN, f"kind {kind:#x}"
            assert flags & ~0b111 == 0, f"flags {flags:#x} of kind {kind:#x}"
            fields, frame = Fields(frame[8:length]), frame[length:]
            if kind == PING:
                (nonce, _) = fields.take("QQ")
                self.write(message(PONG, struct.pack("<QQ", nonce, self.seq)))
            elif kind == ERROR:
                (code,) = fields.take("H")
                raise SystemExit(f"refused: {code} {fields.text()}")
            else:
                self.inbox.append((kind, flags, fields))

    def hello(self, roles: list[str], registered: list[tuple[str, int]]) -> int:
        """A fresh connection; players that it hosts by their logins."""
        self.connection += 1
        self.inbox.clear()
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger = 500
        self.socket.connect(self.address)
        key, low = node_key(self.name), self.seq
        numbers = struct.pack("<HHQQQIQQ", 1, 1, key, self.epoch, self.connection, 0, low, 0)
        names = struct.pack("<I", len(roles)) + b"".join(map(text, roles))
        self.write(message(HELLO, numbers + text(self.name) + names))
        _, fields = self.next(WELCOME)
        version, hub_epoch, *_ = fields.take("HIIIIIII")
        assert version == 1
        slots = fields.list(lambda: (*fields.take("HH"), fields.text()))
        assert slots[0][0] == 0
        assert fields.data == b"", "a field that version 1 does not have"
        claims = [struct.pack("<QQ", login, 100 + at) + text(p) for at, (p, login) in enumerate(registered)]
        self.write(message(REGISTER, struct.pack("<I", len(claims)) + b"".join(claims), LAST))
        return hub_epoch

    def login(self, player: str, request: int) -> tuple[int, int]:
        claim = struct.pack("<IQQ", 1, 0, request) + text(player)
        self.write(message(LOGIN, claim))
        _, fields = self.next(BOUND)
        [(login, binding, answered, who)] = fields.list(lambda: (*fields.take("QQQ"), fields.text()))
        assert (answered, who) == (request, player)
        return login, binding

    def send(self, player: str, payload: str, *, again: int = 0) -> int:
        seq = again or self.number()
        body = struct.pack("<QQQB", seq, seq, 0, 0) + text(player) + text("") + text(payload)
        self.write(message(SEND, body, TEXT | (RESEND if again else 0)))
        return seq

    def number(self) -> int:
        self.seq += 1
        return self.seq - 1

    def send_group(self, group: str, payload: str) -> int:
        seq = self.number()
        body = struct.pack("<QQQB", seq, seq, 0, 0) + text(group) + text("") + text(payload)
        self.write(message(SEND_GROUP, body, TEXT))
        return seq

    def broadcast(self, payload: str) -> int:
        seq = self.number()
        self.write(
            message(BROADCAST, struct.pack("<QQQBB", seq, seq, 0, 0, 0) + text("") + text(payload), TEXT)
        )
        return seq

    def report(self, seq: int) -> tuple[list[int], list[tuple]]:
        flags, fields = self.next(GROUP_RECEIPT)
        got, *counts = fields.take("Q7I")
        fields.take("I")
        entries = fields.list(lambda: (OUTCOMES[fields.take("B")[0]], fields.text(), fields.text()))
        assert (got, flags, fields.data) == (seq, LAST, b"")
        return counts, entries

    def member(self, kind: int, group: str, player: str, request: int) -> tuple[int, str]:
        self.write(message(kind, struct.pack("<QI", request, 1) + text(group) + text(player), DURABLE))
        _, fields = self.next(JOINED)
        answered, ok = fields.take("QB")
        assert answered == request
        return ok, fields.text()

    def request(self, call: int, service: str, payload: str) -> None:
        self.write(message(REQUEST, struct.pack("<QI", call, 3_000) + text(service) + text(payload), TEXT))

    def answer(self) -> tuple[int, int, str]:
        _, fields = self.next(ANSWER)
        return (*fields.take("QB"), fields.text())

    def called(self) -> tuple[int, str, str, str]:
        _, fields = self.next(CALL)
        call, _ = fields.take("QI")
        return call, fields.text(), fields.text(), fields.text()

    def reply(self, call: int, payload: str) -> None:
        self.write(message(REPLY, struct.pack("<QB", call, 1) + text(payload), TEXT))

    def presence(self, wanted: tuple[int, str]) -> None:
        """Read presence until an event is there."""
        while True:
            _, fields = self.next(PRESENCE)
            if wanted in fields.list(fields.event):
                return

    def query(self, call: int, what: int, argument: str) -> object:
        self.write(message(QUERY, struct.pack("<QB", call, what) + text(argument)))
        answered, status, payload = self.answer()
        assert (answered, status) == (call, 0)
        return json.loads(payload)

    def receipt(self, seq: int) -> tuple[str, str]:
        _, fields = self.next(RECEIPT)
        [(got, outcome, detail)] = fields.list(lambda: (*fields.take("QB"), fields.text()))
        assert got == seq
        return OUTCOMES[outcome], detail

    def deliver(self) -> tuple[tuple[int, int, int], tuple[int, int], str]:
        flags, fields = self.next(DELIVER)
        *number, policy = fields.take("QQQB")
        [target] = fields.list(lambda: fields.take("QI"))
        assert (policy, flags & 0b011) == (0, TEXT)
        return tuple(number), target, fields.text()

    def ack(self, target: tuple[int, int]) -> None:
        self.write(message(ACK, struct.pack("<IQI", 1, *target)))

    def logout(self, player: str, login: int, cursor: tuple[int, int, int]) -> None:
        body = struct.pack("<Q", login) + text(player) + struct.pack("<IQQQ", 1, *cursor)
        self.write(message(LOGOUT, body))
        _, fields = self.next(LOGOUT_DONE)
        assert (fields.take("Q"), fields.text()) == ((login,), player)

    def bye(self) -> None:
        self.write(message(BYE, struct.pack("<Q", self.seq)))
        self.socket.close()


def main(address: str) -> None:
    client = Foreign(address, "old-node")
    done = {"hub_epoch": client.hello(["old-echo"], [])}
    done["unknown"] = client.receipt(client.send("nobody", "hello"))
    client.write(message(SUBSCRIBE, b"\x01"))
    login, binding = client.login("zoe", 1)
    client.presence((3, "zoe"))

    live = client.send("zoe", "live")
    number, target, payload = client.deliver()
    assert (target, number) == ((binding, 1), (node_key("old-node"), client.epoch, live))
    client.ack(target)
    done["live"] = (payload, client.receipt(live))

    done["joined"] = client.member(JOIN, "crew", "zoe", 5)
    for name, send in (
        ("group", lambda: client.send_group("crew", "all")),
        ("broadcast", lambda: client.broadcast("hi")),
    ):
        seq = send()
        number, target, payload = client.deliver()
        client.ack(target)
        done[name] = (payload, client.report(seq))
    done["left"] = client.member(LEAVE, "crew", "zoe", 6)
    done["empty group"] = client.receipt(client.send_group("crew", "none"))

    client.request(1, "old-echo", "ask")
    call, *who = client.called()
    client.reply(call, "told")
    done["request"] = (who, client.answer())
    client.request(2, "nobody-serves-this", "ask")
    done["no service"] = client.answer()
    client.request(3, "old-echo", "never")
    call, *_ = client.called()
    client.write(message(CANCEL, struct.pack("<Q", 3)))
    _, fields = client.next(CANCELLED)
    assert fields.take("Q") == (call,)
    done["cancelled"] = client.answer()[1]
    done["status"] = sorted(client.query(4, 1, ""))
    done["players"] = client.query(5, 3, "10 z")

    # The connection breaks behind a delivery that was handled, its ack unread: register, resend.
    seq = client.send("zoe", "twice")
    number, target, payload = client.deliver()
    client.socket.close(0)
    client.hello(["old-echo"], [("zoe", login)])
    _, fields = client.next(BOUND)
    [(again, binding, answered, who)] = fields.list(lambda: (*fields.take("QQQ"), fields.text()))
    assert (again, answered, who) == (login, 100, "zoe")
    client.send("zoe", "twice", again=seq)
    repeated, target, _ = client.deliver()
    assert (repeated, target) == (number, (binding, 1))
    client.ack(target)
    done["resent"] = client.receipt(seq)

    client.write(message(PING, struct.pack("<QQ", 77, client.seq)))
    _, fields = client.next(PONG)
    done["pong"] = fields.take("QQ")[0]
    client.logout("zoe", login, number)
    done["offline"] = client.receipt(client.send("zoe", "kept"))
    newer, binding = client.login("zoe", 2)
    assert newer > login
    number, target, payload = client.deliver()
    assert target == (binding, 1)
    client.ack(target)
    client.logout("zoe", newer, number)
    done["stored"] = payload
    client.bye()
    print(json.dumps(done))


if __name__ == "__main__":
    main(sys.argv[1])
