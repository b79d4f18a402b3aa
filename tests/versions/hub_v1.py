"""A hub of protocol version 1, frozen: pyzmq, struct and nothing of ours. Never changed: a test has its hash.

It hosts, delivers and gives receipts in memory, and ends at the first byte that version 1 does not have. One
JSON line says where it listens, one more (after stdin is closed) what it was told.
"""

import json
import struct
import sys

import zmq

HELLO, SEND, SEND_GROUP, LOGIN, REGISTER, LOGOUT, ACK = 0x01, 0x02, 0x03, 0x08, 0x09, 0x0A, 0x0B
JOIN, SUBSCRIBE, PING, PONG, BYE, QUERY = 0x0C, 0x0E, 0x0F, 0x10, 0x11, 0x12
WELCOME, RECEIPT, GROUP_RECEIPT, BOUND, DELIVER, LOGOUT_DONE = 0x41, 0x42, 0x43, 0x44, 0x45, 0x46
ANSWER, JOINED = 0x4B, 0x4E
LAST, RESEND = 0b100, 0b100
EPOCH = 5
DELIVERED, STORED = 1, 2


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<I", len(data)) + data


def message(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack("<IBBH", 8 + len(body), kind, flags, 0) + body


class Fields:
    """Takes fields off the front of a message's body."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, layout: str) -> tuple:
        size = struct.calcsize("<" + layout)
        assert size <= len(self.data)
        values = struct.unpack("<" + layout, self.data[:size])
        self.data = self.data[size:]
        return values

    def bytes(self) -> bytes:
        (length,) = self.take("I")
        value, self.data = self.data[:length], self.data[length:]
        return value

    def text(self) -> str:
        return self.bytes().decode()


class Hub:
    """One node at a time; all that it does is in memory."""

    def __init__(self) -> None:
        self.told: dict[str, object] = {"hellos": [], "sends": 0, "kinds": []}
        self.counter = 0
        self.bindings: dict[str, int] = {}
        self.players: dict[int, str] = {}
        self.numbers: dict[int, int] = {}
        self.under_way: dict[tuple[int, int], int] = {}
        self.key = self.epoch = 0
        self.out: list[bytes] = []

    def frame(self, frame: bytes) -> bytes:
        """One batch in, one batch out."""
        self.out = []
        while frame:
            length, kind, flags, zero = struct.unpack_from("<IBBH", frame)
            assert zero == 0
            assert 8 <= length <= len(frame)
            fields, frame = Fields(frame[8:length]), frame[length:]
            assert kind <= QUERY, f"kind {kind:#x}: version 1 does not have it"
            assert flags & ~0b111 == 0, f"flags {flags:#x}: version 1 does not have them"
            if kind not in self.told["kinds"]:
                self.told["kinds"].append(kind)
            self.handle(kind, flags, fields)
            assert fields.data == b"", f"{len(fields.data)} bytes behind kind {kind:#x}"
        return b"".join(self.out)

    def handle(self, kind: int, flags: int, fields: Fields) -> None:
        if kind == HELLO:
            low, high, self.key, self.epoch, _, seen, _, _ = fields.take("HHQQQIQQ")
            name, roles = fields.text(), [fields.text() for _ in range(*fields.take("I"))]
            assert low <= 1 <= high
            assert seen in (0, EPOCH)
            self.told["hellos"].append([low, high, name, roles])
            body = struct.pack("<HIIIIIIII", 1, EPOCH, 1_000, 3_000, 20, 983_040, 1_024, 1 << 20, 1)
            self.out.append(message(WELCOME, body + struct.pack("<HH", 0, 16_383) + text("old")))
        elif kind in (LOGIN, REGISTER):
            for _ in range(*fields.take("I")):
                _, request = fields.take("QQ")
                self.bind(fields.text(), request)
        elif kind == SEND:
            self.send(fields)
        elif kind == SEND_GROUP:
            self.send_group(fields)
        elif kind == ACK:
            for _ in range(*fields.take("I")):
                self.ack(*fields.take("QI"))
        elif kind == LOGOUT:
            (login,), player = fields.take("Q"), fields.text()
            for _ in range(*fields.take("I")):
                fields.take("QQQ")
            self.players.pop(self.bindings.pop(player, 0), None)
            self.out.append(message(LOGOUT_DONE, struct.pack("<Q", login) + text(player)))
        elif kind == JOIN:
            (request,) = fields.take("Q")
            for _ in range(*fields.take("I")):
                fields.text(), fields.text()
            if request:
                self.out.append(message(JOINED, struct.pack("<QB", request, 1) + text("")))
        elif kind == PING:
            nonce, _ = fields.take("QQ")
            self.out.append(message(PONG, struct.pack("<QQ", nonce, 0)))
        elif kind == QUERY:
            call, what = fields.take("QB")
            assert what in (1, 2, 3), f"query {what}: version 1 does not have it"
            fields.text()
            self.out.append(message(ANSWER, struct.pack("<QB", call, 0) + text("{}"), 2))
        elif kind == PONG:
            fields.take("QQ")
        elif kind == BYE:
            fields.take("Q")
        elif kind == SUBSCRIBE:
            fields.take("B")
        else:
            raise AssertionError(f"kind {kind:#x} is not played here")

    def bind(self, player: str, request: int) -> None:
        self.counter += 2
        login, binding = EPOCH << 32 | self.counter, EPOCH << 32 | self.counter + 1
        self.bindings[player], self.players[binding], self.numbers[binding] = binding, player, 0
        self.out.append(message(BOUND, struct.pack("<IQQQ", 1, login, binding, request) + text(player)))

    def head(self, fields: Fields) -> tuple[int, str, bytes]:
        seq, _, deadline, policy = fields.take("QQQB")
        assert seq < 1 << 63, "a number of version 2"
        assert (deadline, policy) == (0, 0), "version 1 refuses deadlines and policies"
        name = fields.text()
        fields.text()
        self.told["sends"] += 1
        return seq, name, fields.bytes()

    def send(self, fields: Fields) -> None:
        seq, player, payload = self.head(fields)
        binding = self.bindings.get(player)
        if binding is None:
            self.receipt(seq, STORED)
            return
        self.numbers[binding] += 1
        number = self.numbers[binding]
        self.under_way[binding, number] = seq
        body = struct.pack("<QQQBIQI", self.key, self.epoch, seq, 0, 1, binding, number)
        self.out.append(message(DELIVER, body + struct.pack("<I", len(payload)) + payload))

    def send_group(self, fields: Fields) -> None:
        seq, _, _ = self.head(fields)
        self.out.append(message(GROUP_RECEIPT, struct.pack("<Q7III", seq, *[0] * 7, 0, 0), LAST))

    def ack(self, binding: int, up_to: int) -> None:
        for key in sorted(key for key in self.under_way if key[0] == binding and key[1] <= up_to):
            self.receipt(self.under_way.pop(key), DELIVERED)

    def receipt(self, seq: int, outcome: int) -> None:
        self.out.append(message(RECEIPT, struct.pack("<IQB", 1, seq, outcome) + text("")))


def main() -> None:
    socket = zmq.Context.instance().socket(zmq.ROUTER)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    print(json.dumps({"hub": f"tcp://127.0.0.1:{port}"}), flush=True)
    poller, hub = zmq.Poller(), Hub()
    poller.register(socket, zmq.POLLIN)
    poller.register(sys.stdin.fileno(), zmq.POLLIN)
    while True:
        ready = dict(poller.poll())
        if socket in ready:
            who, frame = socket.recv_multipart()
            answer = hub.frame(frame)
            if answer:
                socket.send_multipart([who, answer])
        elif ready:
            print(json.dumps(hub.told), flush=True)
            return


if __name__ == "__main__":
    main()
