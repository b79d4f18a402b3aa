"""What the configuration says of a game server's ways in: TLS, a proxy before it, limits of each client."""

import asyncio
import contextlib
import shutil
import signal
import socket
import ssl
import struct
import time
from pathlib import Path

import pytest
from zmqgame.client import Loss
from zmqgame.links import Direct, open_link
from zmqgame.protocol import ToClient, ToServer, packet
from zmqgame.resume import Resume

from tests.certificates import certificate
from tests.cluster import DidNotStart, cluster, until
from tests.players import QUICK, Player, node

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="needs tests/install-system-packages")


@needs_openssl
async def test_clients_connect_by_tls_and_certificates_change_without_a_restart(tmp_path):
    files = certificate(tmp_path)
    trusted = shutil.copy(files[0], tmp_path / "trusted.pem")
    settings = {**QUICK, "game.tls_certificate": files[0], "game.tls_key": files[1]}
    async with cluster(tmp_path, "game-1", **settings) as running, node(running) as studio:
        server = running.running["game-1"]
        assert server.addresses["ws"] == f"wss://{server.addresses['tcp']}"
        for transport in ("ws", "tcp"):
            player = Player(studio, f"by-{transport}", transport=transport, ca_file=str(trusted))
            async with player.client as client:
                await asyncio.wait_for(client.online.wait(), 60)
                assert (await studio.unicast(player.name, "hello", timeout_s=60)).outcome == "delivered"
        stranger = Player(studio, "eve")  # trusts whom the system trusts
        async with stranger.client as client:
            await until(lambda: client.counters["losses"] > 0, "it does not trust the server")
            assert not client.online.is_set()
        certificate(tmp_path)
        server.process.send_signal(signal.SIGHUP)
        await until(lambda: serves(server, files[0]), "the new certificate is served")
        (tmp_path / "key.pem").write_text("no key")
        server.process.send_signal(signal.SIGHUP)
        await until(lambda: "the certificate stays as it was" in server.log.read_text(), "it says so")
        assert await serves(server, files[0])


async def serves(server, file):
    host, _, port = server.addresses["tcp"].rpartition(":")
    found = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
    return found.split() == (await asyncio.to_thread(Path(file).read_text)).split()


@needs_openssl
async def test_a_server_without_its_key_says_which_file_it_misses(tmp_path):
    found, _ = certificate(tmp_path)
    settings = {"game.tls_certificate": found, "game.tls_key": str(tmp_path / "none.pem")}
    async with cluster(tmp_path, **settings) as running:
        with pytest.raises(DidNotStart, match=r"game.tls_key = .*none.pem can't be read: No such file"):
            await running.start("game", "game-1")
        (tmp_path / "none.pem").write_text("no key")
        with pytest.raises(DidNotStart, match=r"error: game.listen = .* can't be served by TLS"):
            await running.start("game", "game-1")


class Behind(Direct):
    """A client whose connections go through a proxy that says they come from `source`."""

    def __init__(self, source):
        super().__init__()
        self.source = source

    async def open_link(self, transport, tcp, ws):
        async with contextlib.AsyncExitStack() as stack:
            proxy = await stack.enter_async_context(
                await asyncio.start_server(lambda *ends: pass_on(tcp, self.source, *ends), "127.0.0.1", 0)
            )
            host, port = proxy.sockets[0].getsockname()
            link = await super().open_link(transport, f"{host}:{port}", f"ws://{host}:{port}")
            stack.pop_all()
            return link


async def pass_on(tcp, source, reader, writer):
    """What a proxy does with a connection; `source` is the client's address for the server."""
    host, _, port = tcp.rpartition(":")
    up_reader, up_writer = await asyncio.open_connection(host, int(port))
    head = struct.pack(">4s4sHH", socket.inet_aton(source), socket.inet_aton("192.0.2.9"), 1, 2)
    up_writer.write(b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack(">H", len(head)) + head)
    with contextlib.suppress(ConnectionError):
        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))


async def pump(reader, writer):
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()


async def test_a_proxy_names_its_clients_and_their_connections_are_counted(tmp_path):
    settings = {**QUICK, "game.proxy_protocol": "true", "game.max_connections_per_address": 1}
    async with cluster(tmp_path, "game-1", **settings) as running, node(running) as studio:

        def player(name, network):
            return Player(studio, name, udp=False, network=network)

        ann, bob = player("ann", Behind("192.0.2.1")), player("bob", Behind("192.0.2.2"))
        second, direct = player("second", Behind("192.0.2.1")), player("direct", None)
        async with ann.client, bob.client:
            await asyncio.wait_for(ann.client.online.wait(), 60)
            await asyncio.wait_for(bob.client.online.wait(), 60)
            async with second.client, direct.client:
                for refused in (second, direct):
                    await until(lambda refused=refused: refused.client.counters["losses"] > 0, "refused")
                    assert not refused.welcomes
            assert ann.client.counters["losses"] == bob.client.counters["losses"] == 0


@needs_openssl
async def test_behind_a_proxy_that_ends_tls_clients_are_sent_to_the_proxy(tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = certificate(tmp_path)
    context.load_cert_chain(*files)
    behind = []

    async def passes(reader, writer):
        await pass_on(behind[0], "192.0.2.1", reader, writer)

    async with await asyncio.start_server(passes, "127.0.0.1", 0, ssl=context) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        address = f"wss://localhost:{port}/game-1"
        settings = {**QUICK, "game.public_ws": address, "game.proxy_protocol": "true"}
        settings["game.proxies"] = "127.0.0.1"
        async with cluster(tmp_path, **settings) as running, node(running) as studio:
            server = await running.start("game", "game-1")
            behind.append(server.addresses["listen"])
            assert server.addresses["ws"] == address
            assert server.addresses["tcp"] == f"localhost:{port}"
            for transport in ("ws", "tcp"):
                player = Player(studio, f"by-{transport}", transport=transport, ca_file=files[0])
                async with player.client as client:
                    await asyncio.wait_for(client.online.wait(), 60)
                    assert (await studio.unicast(player.name, "hello", timeout_s=60)).outcome == "delivered"
            junk = await asyncio.to_thread(send_junk, port, files[0])
            assert b"malformed" in junk
            await until(lambda: "(192.0.2.1:1)" in server.log.read_text(), "its address is the client's own")


def send_junk(port, ca_file):
    context = ssl.create_default_context(cafile=ca_file)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as client,
    ):
        client.sendall(len(packet(ToServer.PING, 1)).to_bytes(4, "little") + packet(ToServer.PING, 1))
        return client.recv(1_000)


async def test_only_listed_proxies_are_let_in(tmp_path):
    settings = {**QUICK, "game.proxy_protocol": "true", "game.proxies": "127.0.0.0/8"}
    async with cluster(tmp_path, "game-1", **settings) as running, node(running) as studio:
        ann = Player(studio, "ann", udp=False, network=Behind("192.0.2.1"))
        async with ann.client:
            await asyncio.wait_for(ann.client.online.wait(), 10)
    settings["game.proxies"] = "192.0.2.0/24"
    async with cluster(tmp_path / "elsewhere", "game-1", **settings) as running, node(running) as studio:
        bob = Player(studio, "bob", udp=False, network=Behind("192.0.2.1"))
        async with bob.client:
            await until(lambda: bob.client.counters["losses"] > 0, "refused")
            assert not bob.welcomes


async def test_proxies_that_can_not_be_are_told_at_the_start(tmp_path):
    async with cluster(tmp_path, **{"game.proxies": "10.0.0.0/8"}) as running:
        with pytest.raises(DidNotStart, match=r"game.proxies names .*game.proxy_protocol is false"):
            await running.start("game", "game-1")
    settings = {"game.proxy_protocol": "true", "game.proxies": "10.0.0.1/8"}
    async with cluster(tmp_path / "unclear", **settings) as running:
        with pytest.raises(DidNotStart, match=r'game.proxies: .*"10.0.0.1/8" is an address in the network'):
            await running.start("game", "game-1")


async def test_who_sends_too_many_packets_waits_and_loses_nothing(tmp_path):
    settings = {**QUICK, "game.packets_per_s": 100}
    async with cluster(tmp_path, "game-1", **settings) as running, node(running) as studio:
        flooder, ann = Player(studio, "flooder"), Player(studio, "ann", udp=False)
        ticket = await flooder.ticket(Loss(0, ""))
        link = await open_link("tcp", ticket.tcp, ticket.ws)
        start = time.monotonic()
        link.send(Resume().login(ticket.token))
        assert (await link.receive())[0] == ToClient.WELCOME
        for number in range(500):
            link.send(packet(ToServer.PING, number))
        async with ann.client as client:
            await asyncio.wait_for(client.online.wait(), 60)
            assert (await studio.unicast("ann", "hello", timeout_s=60)).outcome == "delivered"
        # What one read has brought is taken; then nothing is read until 300 packets over 200 are paid for.
        assert await asyncio.wait_for(pongs(link, 500), 120) == list(range(500))
        link.send(packet(ToServer.PING, 500))
        assert await asyncio.wait_for(pongs(link, 1), 120) == [500]
        assert time.monotonic() - start > 2.5
        await link.close()


async def pongs(link, count):
    found = []
    while len(found) < count:
        kind, sequence, _ = await link.receive()
        if kind == ToClient.PONG:
            found.append(sequence)
    return found
