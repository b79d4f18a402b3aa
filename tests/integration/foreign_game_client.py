"""A game client written from services/CLIENT.md alone: sockets, struct, json and nothing of ours.

Runs as a process of its own: `python -I foreign_game_client.py tcp|ws|udp` (udp: inputs by netcode, the rest
on a WebSocket), a ticket {"token", "tcp", "ws"} as JSON on the first line of stdin. It logs in, handles
messages, drops its connection and resumes when a message says so, queues and races, follows `bye` moved, and
leaves when a message says so. Prints JSON lines.
"""

import base64
import hashlib
import json
import os
import select
import socket
import struct
import sys
import time

LOGIN, ACTION, INPUT, ACK, LEAVE, PING = 1, 2, 3, 4, 5, 6
WELCOME, MESSAGE, EVENT, SNAPSHOT, ACTION_ACK, BYE, PONG, FORGET = range(0x41, 0x49)


class Tcp:
    """u32 length, then the packet."""

    def __init__(self, ticket):
        host, port = ticket["tcp"].rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), 5)
        self.data = b""

    def send(self, packet):
        self.socket.sendall(struct.pack("<I", len(packet)) + packet)

    def packets(self):
        """What has come; None when the connection is gone."""
        if not self._read():
            return None
        found = []
        while len(self.data) >= 4:
            (length,) = struct.unpack_from("<I", self.data)
            if len(self.data) < 4 + length:
                break
            found.append(self.data[4 : 4 + length])
            self.data = self.data[4 + length :]
        return found

    def _read(self):
        if not select.select([self.socket], [], [], 0.01)[0]:
            return True
        try:
            part = self.socket.recv(65_536)
        except OSError:
            return False
        self.data += part
        return bool(part)

    def cut(self):
        self.socket.close()


class WebSocket(Tcp):
    """RFC 6455: one binary message is one packet."""

    def __init__(self, ticket):
        super().__init__({"tcp": ticket["ws"].removeprefix("ws://").split("/")[0]})
        key = base64.b64encode(os.urandom(16)).decode()
        host = ticket["ws"].removeprefix("ws://")
        head = f"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        head += f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        self.socket.sendall(head.encode())
        while b"\r\n\r\n" not in self.data:
            part = self.socket.recv(4_096)
            assert part, "no handshake"
            self.data += part
        answer, _, self.data = self.data.partition(b"\r\n\r\n")
        accept = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        assert answer.startswith(b"HTTP/1.1 101"), answer
        assert base64.b64encode(accept) in answer

    def send(self, packet):
        self._frame(2, packet)

    def _frame(self, opcode, data):
        mask = os.urandom(4)
        head = bytes([0x80 | opcode])
        if len(data) < 126:
            head += bytes([0x80 | len(data)])
        elif len(data) < 65_536:
            head += bytes([0x80 | 126]) + struct.pack(">H", len(data))
        else:
            head += bytes([0x80 | 127]) + struct.pack(">Q", len(data))
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
        self.socket.sendall(head + mask + masked)

    def packets(self):
        alive = self._read()
        found = []
        while frame := self._next():
            opcode, data = frame
            if opcode == 8:
                alive = False
            elif opcode == 9:
                self._frame(10, data)
            elif opcode == 2:
                found.append(data)
        return found if alive or found else None

    def _next(self):
        if len(self.data) < 2:
            return None
        opcode, length, start = self.data[0] & 0x0F, self.data[1] & 0x7F, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            if len(self.data) < start:
                return None
            (length,) = struct.unpack_from(">H" if length == 126 else ">Q", self.data, 2)
        if len(self.data) < start + length:
            return None
        data, self.data = self.data[start : start + length], self.data[start + length :]
        return opcode, data


# --- netcode 1.02, the client's side: RFC 8439 for its packets


def chacha20(key, nonce, counter, length):
    """Key stream."""
    stream = b""
    while len(stream) < length:
        start = list(struct.unpack("<16I", b"expand 32-byte k" + key + struct.pack("<I", counter) + nonce))
        state = start[:]
        for _ in range(10):
            for a, b, c, d in (
                (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
                (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
            ):  # fmt: skip
                for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                    state[x] = (state[x] + state[y]) & 0xFFFFFFFF
                    mixed = state[z] ^ state[x]
                    state[z] = (mixed << turn | mixed >> (32 - turn)) & 0xFFFFFFFF
        stream += struct.pack("<16I", *((x + y) & 0xFFFFFFFF for x, y in zip(start, state, strict=True)))
        counter += 1
    return stream[:length]


def tag_of(key, nonce, data, aad):
    one = chacha20(key, nonce, 0, 32)
    r = int.from_bytes(one[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    pad = lambda part: part + bytes(-len(part) % 16)  # noqa: E731
    text, total = pad(aad) + pad(data) + struct.pack("<QQ", len(aad), len(data)), 0
    for at in range(0, len(text), 16):
        total = (total + int.from_bytes(text[at : at + 16] + b"\x01", "little")) * r % ((1 << 130) - 5)
    return ((total + int.from_bytes(one[16:], "little")) % (1 << 128)).to_bytes(16, "little")


def seal(key, nonce, data, aad):
    sealed = bytes(x ^ y for x, y in zip(data, chacha20(key, nonce, 1, len(data)), strict=True))
    return sealed + tag_of(key, nonce, sealed, aad)


def unseal(key, nonce, sealed, aad):
    data, tag = sealed[:-16], sealed[-16:]
    if tag_of(key, nonce, data, aad) != tag:
        return None
    return bytes(x ^ y for x, y in zip(data, chacha20(key, nonce, 1, len(data)), strict=True))


class Netcode:
    """Request, challenge, connected; payloads out, keep-alives."""

    VERSION = b"NETCODE 1.02\0"

    def __init__(self, connect_token, address):
        token = base64.b64decode(connect_token)
        assert token[:13] == self.VERSION
        self.protocol_id, _, expires = struct.unpack_from("<QQQ", token, 13)
        nonce, private = token[37:61], token[61:1085]
        at = 1085 + 4
        (count,) = struct.unpack_from("<I", token, at)
        at += 4
        for _ in range(count):
            at += 1 + (6 if token[at] == 1 else 18)
        self.to_server, self.to_client = token[at : at + 32], token[at + 32 : at + 64]
        self.request = b"\0" + self.VERSION + struct.pack("<QQ", self.protocol_id, expires) + nonce + private
        host, port = address.rsplit(":", 1)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect((host, int(port)))
        self.socket.setblocking(False)
        self.sequence, self.challenge, self.connected, self.sent_at = 0, None, False, 0.0

    def _packet(self, kind, body):
        number = self.sequence
        self.sequence += 1
        size = max(1, (number.bit_length() + 7) // 8)
        prefix = kind | size << 4
        aad = self.VERSION + struct.pack("<QB", self.protocol_id, prefix)
        sealed = seal(self.to_server, bytes(4) + struct.pack("<Q", number), body, aad)
        self._put(bytes([prefix]) + number.to_bytes(size, "little") + sealed)

    def _put(self, datagram):
        try:
            self.socket.send(datagram)
        except OSError:
            self.connected = False

    def turn(self):
        try:
            while True:
                self._came(self.socket.recv(2_048))
        except OSError:
            pass
        if time.monotonic() - self.sent_at < 0.1:
            return
        self.sent_at = time.monotonic()
        if self.connected:
            self._packet(4, struct.pack("<II", 0, 0))
        elif self.challenge is not None:
            self._packet(3, self.challenge)
        else:
            self._put(self.request)

    def _came(self, datagram):
        prefix = datagram[0]
        kind, size = prefix & 0x0F, prefix >> 4
        number = int.from_bytes(datagram[1 : 1 + size], "little")
        aad = self.VERSION + struct.pack("<QB", self.protocol_id, prefix)
        body = unseal(self.to_client, bytes(4) + struct.pack("<Q", number), datagram[1 + size :], aad)
        if body is None:
            return
        if kind == 2:
            self.challenge = body
        elif kind == 4:
            self.connected = True
        elif kind == 6:
            self.connected = False

    def payload(self, data):
        self._packet(5, data)


# --- the session


class Game:
    def __init__(self, transport, ticket):
        self.transport, self.ticket, self.token = transport, ticket, ticket["token"]
        self.session = self.login = "0"
        self.last_frame, self.cursor = 0, {}
        self.actions, self.next_action, self.done = {}, 1, []
        self.handled, self.events, self.snapshots = [], [], []
        self.link, self.udp, self.online, self.over = None, None, False, ""
        self.by_udp, self.server, self.moving = 0, "", False

    def connect(self):
        self.link = (Tcp if self.transport == "tcp" else WebSocket)(self.ticket)
        cursor = [[str(key), str(epoch), str(seq)] for key, (epoch, seq) in self.cursor.items()]
        first = min(self.actions, default=self.next_action)
        values = {"token": self.token, "session": self.session, "login": self.login, "cursor": cursor}
        values |= {"last_frame": self.last_frame, "action": first - 1}
        self.send(LOGIN, 0, json.dumps(values).encode())

    def send(self, kind, sequence, payload=b""):
        self.link.send(struct.pack("<BBHQ", kind, 0, 0, sequence) + payload)

    def act(self, **values):
        number, self.next_action = self.next_action, self.next_action + 1
        self.actions[number] = json.dumps(values).encode()
        self.send(ACTION, number, self.actions[number])

    def turn(self):
        """What has come; False when the connection is gone."""
        if self.udp is not None:
            self.udp.turn()
        packets = self.link.packets()
        for packet in packets or ():
            kind, _, _, sequence = struct.unpack_from("<BBHQ", packet)
            self.packet(kind, sequence, packet[12:])
        return packets is not None

    def packet(self, kind, sequence, payload):
        if kind == WELCOME:
            self.welcome(json.loads(payload))
        elif kind in (MESSAGE, EVENT):
            self.frame(kind, sequence, payload)
        elif kind == SNAPSHOT:
            self.snapshots.append(json.loads(payload))
        elif kind == ACTION_ACK:
            if self.actions.pop(sequence, None) is not None:
                self.done.append([sequence, json.loads(payload)["error"] if payload else ""])
        elif kind == FORGET:
            key, epoch, seq = struct.unpack("<QQQ", payload)
            if key in self.cursor and self.cursor[key] <= (epoch, seq):
                del self.cursor[key]
        elif kind == BYE:
            self.bye(json.loads(payload))

    def welcome(self, values):
        self.online, self.session, self.login = True, values["session"], values["login"]
        self.token, self.server = values["token"], values["server"]
        if not values["resumed"]:
            self.last_frame = 0
        for number in [number for number in self.actions if number <= values["last_action"]]:
            del self.actions[number]
            self.done.append([number, ""])
        self.next_action = max(self.next_action, values["last_action"] + 1)
        for number, payload in sorted(self.actions.items()):
            self.send(ACTION, number, payload)
        if values["connect_token"] and self.transport == "udp":
            self.udp = Netcode(values["connect_token"], values["udp"])
        say(welcome=values["server"], resumed=values["resumed"], last_frame=self.last_frame)

    def frame(self, kind, number, payload):
        if number == 0:
            return
        if number == self.last_frame + 1:
            if kind == MESSAGE:
                key, epoch, seq, _ = struct.unpack_from("<QQQB", payload)
                if key not in self.cursor or self.cursor[key] < (epoch, seq):
                    self.message(payload[25:])
                    self.cursor[key] = (epoch, seq)
            else:
                self.event(json.loads(payload))
            self.last_frame = number
        elif number > self.last_frame:
            raise AssertionError(f"frame {number} after {self.last_frame}")
        self.send(ACK, self.last_frame)
        if self.moving:
            self.moving = self.online = False
            self.link.cut()

    def message(self, body):
        values = json.loads(body)
        if "n" in values:
            self.handled.append(values["n"])
        if values.get("type") == "match_ready":
            self.act(type="ready", match=values["match"])
            if values["server"]["name"] != self.server:
                self.ticket = values["server"]
                self.moving = True
        if values.get("do") == "drop":
            self.moving = True
        if values.get("do") == "leave":
            self.send(LEAVE, 0)

    def event(self, values):
        self.events.append(values)
        if values["type"] == "token":
            self.token = values["token"]

    def bye(self, values):
        self.online = False
        say(bye=values["reason"])
        if values["again"] == "moved":
            self.ticket = values["server"]
        elif values["again"] != "yes":
            self.over = values["reason"]

    def inputs(self, frame):
        """Full throttle in first gear, for this frame and the one before."""
        held = struct.pack("<fi", 1.0, 1)
        payload = bytes([2]) + held * 2
        if self.udp is not None and self.udp.connected:
            self.udp.payload(struct.pack("<BBHQ", INPUT, 0, 0, frame) + payload)
            self.by_udp += 1
        else:
            self.send(INPUT, frame, payload)


def say(**values):
    print(json.dumps(values), flush=True)


def main():
    game, until = Game(sys.argv[1], json.loads(sys.stdin.readline())), time.monotonic() + 240
    game.connect()
    queued = False
    while not game.over and time.monotonic() < until:
        try:
            alive = game.turn()
        except (OSError, ValueError):
            alive = False
        if game.over:
            break
        if not alive:
            game.online = False
            time.sleep(0.05)
            game.connect()
        elif game.online and not queued:
            queued = True
            game.act(type="queue", car="pebble")
            game.act(type="dance")
        elif game.online and game.snapshots:
            game.inputs(game.snapshots[-1]["frame"] + 3)
    states = [event.get("state") for event in game.events if event["type"] == "state"]
    say(over=game.over, handled=game.handled, done=sorted(game.done), states=states, by_udp=game.by_udp)


main()
