"""HTTP/1.1: the edge carries the bytes, h11 speaks HTTP. `python http_hello.py HOST:PORT`"""

import sys

import h11
from zmqgame_native import Edge

BODY = b"hello\n"
OK = h11.Response(status_code=200, headers=[("content-length", str(len(BODY)))])
edge, clients = Edge(), {}


def answers(http, data):
    """What goes out for the requests that are whole now."""
    try:
        http.receive_data(data)
        while (event := http.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.EndOfMessage):
                yield from map(http.send, (OK, h11.Data(data=BODY), event))
                if http.our_state is h11.DONE:
                    http.start_next_cycle()
    except h11.RemoteProtocolError as error:
        bad = h11.Response(status_code=error.error_status_hint, headers=[("connection", "close")])
        yield from map(http.send, (bad, h11.EndOfMessage()))


def handle(batch):
    for connection, kind, _, data in batch:
        if kind == 0xF0:
            clients[connection] = h11.Connection(h11.SERVER)
        elif kind < 0xF0 and (http := clients.get(connection)):
            edge.send([(connection, 0, 0, b"".join(answers(http, data)))])
        if kind == 0xF1 or clients[connection].our_state in (h11.MUST_CLOSE, h11.CLOSED):
            clients.pop(connection, None)
            edge.close(connection)


print(edge.listen_tcp(sys.argv[1], framing="raw"), flush=True)
edge.serve(handle)
