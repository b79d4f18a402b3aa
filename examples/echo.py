"""An echo server: what comes goes back, without Python looking at it. `python echo.py HOST:PORT`"""

import sys

from zmqgame_native import Edge

edge = Edge(idle_ms=0)
print(edge.listen_tcp(sys.argv[1], framing="raw"), flush=True)
edge.serve(lambda batch: batch)
