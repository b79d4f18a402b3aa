"""HTTP/1.1: the edge carries the bytes, h11 speaks HTTP. `python http_hello.py HOST:PORT`"""

import sys

import h11
from zmqgame_native import Edge

BODY, OVER = b"hello\n", {h11.MUST_CLOSE, h11.CLOSED, h11.ERROR}
edge, clients = Edge(), {}


def answers(http, data):
    """What goes out for these bytes."""
    try:
        http.receive_data(data)
        while (event := http.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.Request):
                if event.method == b"CONNECT":
                    raise h11.RemoteProtocolError("this is no proxy", error_status_hint=405)
                yield http.send(h11.Response(status_code=200, headers=[("content-length", str(len(BODY)))]))
                yield http.send(h11.Data(data=b"" if event.method == b"HEAD" else BODY))
            elif isinstance(event, h11.EndOfMessage):
                yield http.send(h11.EndOfMessage())
                if http.our_state is h11.DONE:
                    http.start_next_cycle()
    except h11.RemoteProtocolError as error:
        if http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            bad = h11.Response(status_code=error.error_status_hint, headers=[("connection", "close")])
            yield from map(http.send, (bad, h11.EndOfMessage()))


def handle(batch):
    for connection, kind, _, data in batch:
        if kind == 0xF0:
            clients[connection] = h11.Connection(h11.SERVER)
        elif http := clients.get(connection):
            if kind < 0xF0:
                edge.send([(connection, 0, 0, b"".join(answers(http, data)))])
            if kind == 0xF1 or OVER & {*http.states.values()}:
                del clients[connection]
                edge.close(connection)


print(edge.listen_tcp(sys.argv[1], framing="raw"), flush=True)
edge.serve(handle)
