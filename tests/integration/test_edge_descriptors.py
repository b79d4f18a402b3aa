"""Out of file descriptors: new connections are refused, the others notice nothing, and it recovers."""

import subprocess
import sys

from tests.edge_tools import dial, packet, read_all, until

# In a process of its own: the limit would hit pytest. The server hoards descriptors until none are left.
SERVER = """
import os, resource, sys
from zmqgame_native import Edge
edge = Edge()
print(edge.listen_tcp("127.0.0.1:0"), flush=True)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
hoard = []
def answer():
    rows = [row for row in edge.receive() if row[1] < 0xF0]
    edge.send(rows)
    return len(rows)
while True:
    command = sys.stdin.readline().strip()
    if command == "hoard":
        try:
            while True:
                hoard.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
    elif command == "free":
        while hoard:
            os.close(hoard.pop())
    elif command == "echo":
        while not (edge.wait(200) and answer()):
            pass
    elif command == "count":
        print(edge.counters()["refused_descriptors"], flush=True)
        continue
    elif not command:
        break
    print("done", flush=True)
"""


def test_running_out_of_descriptors_hurts_nobody_else() -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin
    assert server.stdout

    def tell(command: str) -> str:
        assert server.stdin
        assert server.stdout
        server.stdin.write(command + "\n")
        server.stdin.flush()
        return server.stdout.readline().strip()

    try:
        address = server.stdout.readline().strip()
        old = dial(address)
        old.sendall(packet(1, 1, b"before"))
        tell("echo")
        assert old.recv(100) == packet(1, 1, b"before")
        tell("hoard")
        for _ in range(5):
            assert read_all(dial(address)) == b""
        old.sendall(packet(1, 2, b"during"))
        tell("echo")
        assert old.recv(100) == packet(1, 2, b"during")
        # A client sees its end before the server has counted it.
        until(lambda: int(tell("count")) >= 5)
        assert int(tell("count")) == 5
        tell("free")
        new = dial(address)
        new.sendall(packet(1, 3, b"after"))
        tell("echo")
        assert new.recv(100) == packet(1, 3, b"after")
    finally:
        server.stdin.close()
        server.wait(60)
        server.stdout.close()
