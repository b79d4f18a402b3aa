"""A client of the bus written from bus/PROTOCOL.md alone: pyzmq, struct and nothing of ours.

Runs as a process of its own: logs a player in, sends to it, receives, acks, logs out, is stored for, logs in
again and gets what was stored. Prints one JSON line.
"""

import json
import struct
import sys
import time

import zmq

HELLO, SEND, LOGIN, REGISTER, LOGOUT, ACK, PING, PONG, BYE = (
    0x01,
    0x02,
    0x08,
    0x09,
    0x0A,
    0x0B,
    0x0F,
    0x10,
    0x11,
)
WELCOME, RECEIPT, BOUND, DELIVER, LOGOUT_DONE, ERROR = 0x41, 0x42, 0x44, 0x45, 0x46, 0x4D
TEXT, LAST = 0b001, 0b100
OUTCOMES = {1: "delivered", 2: "stored", 4: "refused", 5: "busy"}
RESEND = 0b100


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

    def list(self, item) -> list:
        (count,) = self.take("I")
        return [item() for _ in range(count)]


class Foreign:
    def __init__(self, address: str, name: str) -> None:
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger = 500
        self.socket.connect(address)
        self.name = name
        self.epoch = time.time_ns() // 1_000_000
        self.seq = 1
        self.inbox: list[tuple[int, int, Fields]] = []
        self.sent: dict[int, bytes] = {}

    def write(self, *messages: bytes) -> None:
        self.socket.send(b"".join(messages))  # one frame is one batch, without an empty delimiter

    def next(self, wanted: int) -> tuple[int, Fields]:
        """The next message of a kind; pings are answered, others wait."""
        for index, (kind, flags, fields) in enumerate(self.inbox):
            if kind == wanted:
                del self.inbox[index]
                return flags, fields
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if self.socket.poll(200):
                self.split(self.socket.recv())
                return self.next(wanted)
        raise SystemExit(f"no message {wanted:#x} in time")

    def split(self, frame: bytes) -> None:
        while frame:
            length, kind, flags, zero = struct.unpack_from("<IBBH", frame)
            assert zero == 0
            assert 8 <= length <= len(frame)
            fields, frame = Fields(frame[8:length]), frame[length:]
            if kind == PING:
                (nonce, _) = fields.take("QQ")
                self.write(message(PONG, struct.pack("<QQ", nonce, self.seq)))
            elif kind == ERROR:
                (code,) = fields.take("H")
                raise SystemExit(f"refused: {code} {fields.text()}")
            else:
                self.inbox.append((kind, flags, fields))

    def hello(self) -> int:
        numbers = struct.pack("<HHQQQIQQ", 1, 1, node_key(self.name), self.epoch, 1, 0, self.seq, 0)
        self.write(message(HELLO, numbers + text(self.name) + struct.pack("<I", 0)))
        _, fields = self.next(WELCOME)
        version, hub_epoch, *_ = fields.take("HIIIIIII")
        assert version == 1
        self.write(message(REGISTER, struct.pack("<I", 0), LAST))
        return hub_epoch

    def login(self, player: str, request: int) -> tuple[int, int]:
        claim = struct.pack("<IQQ", 1, 0, request) + text(player)
        self.write(message(LOGIN, claim))
        _, fields = self.next(BOUND)
        [(login, binding, answered, who)] = fields.list(lambda: (*fields.take("QQQ"), fields.text()))
        assert (answered, who) == (request, player)
        return login, binding

    def send(self, player: str, payload: str) -> int:
        seq, self.seq = self.seq, self.seq + 1
        self.sent[seq] = struct.pack("<QQQB", seq, seq, 0, 0) + text(player) + text("") + text(payload)
        self.write(message(SEND, self.sent[seq], TEXT))
        return seq

    def receipt(self, seq: int) -> tuple[str, str]:
        for _ in range(50):
            _, fields = self.next(RECEIPT)
            ((got, outcome, detail),) = fields.list(lambda f=fields: (*f.take("QB"), f.text()))
            assert got == seq
            if OUTCOMES[outcome] != "busy":
                return OUTCOMES[outcome], detail
            time.sleep(0.1)  # busy is not final
            self.write(message(SEND, self.sent[seq], TEXT | RESEND))
        raise SystemExit(f"still busy: {detail}")

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
    client = Foreign(address, "foreign")
    done = {"hub_epoch": client.hello()}
    done["unknown"] = client.receipt(client.send("nobody", "hello"))
    login, binding = client.login("zoe", 1)
    live = client.send("zoe", "live")
    number, target, payload = client.deliver()
    assert target == (binding, 1)
    assert number == (node_key("foreign"), client.epoch, live)
    client.ack(target)
    done["live"] = (payload, client.receipt(live))
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
