"""A chat: each line goes to everybody who is here (try `nc HOST PORT`). `python chat.py HOST:PORT`"""

import sys

from zmqgame_native import Edge

edge, here = Edge(idle_ms=0), set()


def handle(batch):
    here.update(who for who, kind, _, _ in batch if kind == 0xF0)
    here.difference_update([who for who, kind, _, _ in batch if kind == 0xF1])
    return [(to, 0, 0, line) for _, kind, _, line in batch if kind < 0xF0 for to in here]


print(edge.listen_tcp(sys.argv[1], framing="lines"), flush=True)
edge.serve(handle)
