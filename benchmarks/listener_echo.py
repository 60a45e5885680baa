"""How fast one connection echoes small records through the listener, over TLS 1.3 on the loopback.

    python benchmarks/listener_echo.py [--seconds 5] [--size 300] [--window 500] [--framing record]

The client runs in a process of its own and keeps ``window`` records in flight. ``--framing record`` sends
each record as its own DATA frame (what most clients do), ``batch`` sends all that are due in one. Prints one
JSON object: messages per second, and CPU time of each process per message (microseconds).

``--connects N`` instead opens and closes N connections one after the other, each with a ``/connect`` stream,
and prints connections per second and the server's CPU time for each (milliseconds). ``--idle N`` opens N
connections, each with one open ``/connect`` stream, and prints the server's memory for each (KiB).
"""

import argparse
import datetime
import functools
import ipaddress
import json
import multiprocessing
import os
import resource
import ssl
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from commucat_server.listener import (
    ConnectStream,
    ListenerSettings,
    ShutdownSignal,
    open_tcp,
    serve_listeners,
    tls_context,
)


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate for 127.0.0.1; return the paths of certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(cert.public_bytes(pem))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, *private))
    return folder / "cert.pem", folder / "key.pem"


def resident_kib() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def serve(pipe: Connection, cert: Path, key: Path) -> None:
    """The server process: tells its port, then answers each question on the pipe with its usage."""

    async def echo(stream: ConnectStream) -> None:
        await stream.start(200, [("content-type", "application/octet-stream")])
        while data := await stream.receive():
            await stream.send(data)

    async def no_app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("only /connect is used here")

    async def main() -> None:
        shutdown = ShutdownSignal()
        async with trio.open_nursery() as nursery:
            listeners = await open_tcp("127.0.0.1", 0)

            async def run(task_status: trio.TaskStatus[Any]) -> None:
                await serve_listeners(
                    listeners,
                    tls_context(cert, key),
                    ListenerSettings(drain_timeout=1.0),
                    connect_handler=echo,
                    asgi_app=no_app,
                    shutdown=shutdown,
                    task_status=task_status,
                )

            await nursery.start(run)
            pipe.send(listeners[0].socket.getsockname()[1])
            while await trio.to_thread.run_sync(pipe.recv):
                pipe.send((time.process_time(), resident_kib()))
            shutdown.request()

    if os.environ.get("LISTENER_PROFILE"):
        import cProfile

        profile = cProfile.Profile()
        profile.runcall(trio.run, main)
        profile.dump_stats(os.environ["LISTENER_PROFILE"])
    else:
        trio.run(main)


@functools.cache
def client_context() -> ssl.SSLContext:
    """The client's side of TLS; the certificate is ours, and its check is not what is measured."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


async def open_client(port: int) -> tuple[trio.SSLStream[trio.SocketStream], h2.connection.H2Connection]:
    """A connection with stream 1 open to ``/connect`` and answered, so that the server's settings hold."""
    tcp = await trio.open_tcp_stream("127.0.0.1", port)
    stream = trio.SSLStream(tcp, client_context(), server_hostname="127.0.0.1")
    protocol = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
    protocol.initiate_connection()
    protocol.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**20})
    protocol.increment_flow_control_window(2**20)
    names = (":method", "POST"), (":scheme", "https"), (":path", "/connect"), (":authority", "localhost")
    protocol.send_headers(1, names)
    answered = False
    while not answered:
        await stream.send_all(protocol.data_to_send())
        events = protocol.receive_data(await stream.receive_some(65_536))
        answered = any(isinstance(event, h2.events.ResponseReceived) for event in events)
    await stream.send_all(protocol.data_to_send())
    return stream, protocol


async def run_echo(port: int, size: int, window: int, framing: str, seconds: float) -> int:
    """Keep ``window`` records in flight for ``seconds``; return how many came back."""
    stream, protocol = await open_client(port)
    record = os.urandom(size)
    batch = max(1, 16_384 // size) if framing == "batch" else 1
    received, due, count = 0, window, 0
    end = trio.current_time() + seconds
    while trio.current_time() < end:
        room = protocol.local_flow_control_window(1) // size
        while due and room:
            records = min(due, room, batch)
            protocol.send_data(1, record * records)
            due -= records
            room -= records
        if pending := protocol.data_to_send():
            await stream.send_all(pending)
        for event in protocol.receive_data(await stream.receive_some(65_536)):
            if isinstance(event, h2.events.DataReceived):
                received += len(event.data)
                protocol.acknowledge_received_data(event.flow_controlled_length, 1)
        due += received // size - count
        count = received // size
    await trio.aclose_forcefully(stream)
    return count


async def run_connects(port: int, count: int) -> None:
    """Open and close ``count`` connections, one after the other."""
    for _ in range(count):
        stream, _protocol = await open_client(port)
        await trio.aclose_forcefully(stream)


async def run_idle(port: int, count: int) -> list[trio.SSLStream[trio.SocketStream]]:
    """Open ``count`` connections with an answered stream each."""
    return [(await open_client(port))[0] for _ in range(count)]


def main() -> None:
    """Run and print the result."""
    parser = argparse.ArgumentParser(description="Echo through the listener.")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--size", type=int, default=300)
    parser.add_argument("--window", type=int, default=500)
    parser.add_argument("--framing", choices=["record", "batch"], default="record")
    parser.add_argument("--connects", type=int, default=0)
    parser.add_argument("--idle", type=int, default=0)
    options = parser.parse_args()

    # A fresh interpreter, so that memory and CPU time are the server's alone.
    processes = multiprocessing.get_context("spawn")
    pipe, far = processes.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        server = processes.Process(target=serve, args=(far, *write_certificate(Path(folder))))
        server.start()
        port = pipe.recv()

        def usage() -> tuple[float, int]:
            pipe.send(True)
            cpu, memory = pipe.recv()
            return cpu, memory

        if options.connects:
            trio.run(run_connects, port, 50)
            cpu, start = usage()[0], time.perf_counter()
            trio.run(run_connects, port, options.connects)
            rate = options.connects / (time.perf_counter() - start)
            each = (usage()[0] - cpu) / options.connects * 1e3
            print(json.dumps({"connects_per_second": round(rate), "server_cpu_ms_each": round(each, 2)}))
        elif options.idle:

            async def measure() -> None:
                await run_idle(port, 50)  # what is allocated once, is not a connection's
                before = usage()[1]
                held = await run_idle(port, options.idle)
                per_connection = (usage()[1] - before) / len(held)
                print(json.dumps({"connections": len(held), "kib_per_connection": round(per_connection, 1)}))

            trio.run(measure)
        else:
            trio.run(run_echo, port, options.size, options.window, options.framing, 0.5)
            cpu, own, start = usage()[0], time.process_time(), time.perf_counter()
            count = trio.run(run_echo, port, options.size, options.window, options.framing, options.seconds)
            elapsed = time.perf_counter() - start
            result = {
                "framing": options.framing,
                "messages_per_second": round(count / elapsed),
                "server_cpu_us_per_message": round((usage()[0] - cpu) / count * 1e6, 1),
                "client_cpu_us_per_message": round((time.process_time() - own) / count * 1e6, 1),
            }
            print(json.dumps(result))
        pipe.send(False)
        server.join()


if __name__ == "__main__":
    main()
