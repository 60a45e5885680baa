"""A server process as its operator meets it: reload, proxies, metrics, and what its log holds."""

import contextlib
import datetime
import json
import os
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from commucat_cli.errors import HandshakeRefused
from commucat_proto import SEND_ONLY, FrameType
from commucat_server.provision.certificate import self_signed
from end_to_end.raw_people import CHANNEL, device, device_id, reach, receiver, sender, take
from end_to_end.server_process import DEADLINE, ServerProcess, server_process
from end_to_end.test_nodes import say

TOKEN = "1f" * 32
CODE = "WXYZ-2345-WXYZ-2345"
PROXY = "127.0.0.2"
DIRECT = "127.0.0.1"
CONFIG = f"""
[server]
auto_approve_devices = true
[admin]
token = "{TOKEN}"
[proxy]
trusted = ["{PROXY}"]
protocol = true
[limits]
new_devices_per_hour = 10000
"""
LOOSE = "[security.rate_limit]\nhttp_burst = 10000\nhttp_penalty_ms = 0\n[logging]\nlevel = 'debug'\n"
# Two requests an hour, and no penalty that would last longer than a test.
TIGHT = "[security.rate_limit]\nhttp_burst = 2\nhttp_window_ms = 3600000\nhttp_penalty_ms = 0\n"


@attrs.define
class Operated:
    """A server, and the socket at which it tells systemd how it is."""

    server: ServerProcess
    told: socket.socket

    def reload(self, more: str, **sections: str) -> str:
        """Give the server another configuration, with other begins of sections; what it logged then."""
        text = CONFIG + more
        for name, begin in sections.items():
            text = text.replace(f"[{name}]", begin)
        return self.load(text)

    def load(self, text: str) -> str:
        """Give the server this configuration; what it logged then."""
        (self.server.home / "commucat.toml").write_text(text)
        before = len(self.server.log.read_text())
        os.kill(self.server.pid, signal.SIGHUP)
        assert self.told.recv(1024).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert self.told.recv(1024) == b"READY=1"
        return self.server.log.read_text()[before:]


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    home = tmp_path_factory.mktemp("operated")
    address = home / "notify"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told,
        pytest.MonkeyPatch.context() as patch,
    ):
        told.bind(str(address))
        told.settimeout(DEADLINE)
        patch.setenv("NOTIFY_SOCKET", str(address))
        with server_process(home, CONFIG + LOOSE) as server:
            assert told.recv(1024) == b"READY=1"
            yield Operated(server, told)
            assert server.stop() == 0
            assert told.recv(1024) == b"STOPPING=1"


@pytest.fixture
def server(operated: Operated) -> ServerProcess:
    """With generous limits and all log lines, whatever a test before has set."""
    operated.reload(LOOSE)
    return operated.server


@attrs.frozen
class Answer:
    status: int
    text: str
    certificate: bytes
    """DER."""


class _Closing(ssl.SSLSocket):
    """Closes itself where reading fails: ``wrap_socket`` of Python 3.11 reads before the handshake when the
    server has hung up already, and forgets the socket then."""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except OSError:
            self.close()
            raise


def get(server: ServerProcess, path: str, *lines: str, source: str = DIRECT, before: bytes = b"") -> Answer:
    """One request over HTTP/1.1 from the address ``source``, after the bytes ``before``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = _Closing
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE, (source, 0)) as plain:
        plain.sendall(before)
        with context.wrap_socket(plain) as secured:
            certificate = secured.getpeercert(binary_form=True)
            assert certificate is not None
            head = [f"GET {path} HTTP/1.1", "host: localhost", "connection: close", *lines, "", ""]
            secured.sendall("\r\n".join(head).encode())
            data = b""
            with contextlib.suppress(ssl.SSLEOFError):
                while piece := secured.recv(65536):
                    data += piece
    status, _, rest = data.decode().partition("\r\n")
    return Answer(int(status.split()[1]), rest, certificate)


def lines_of(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


# -- reload ---------------------------------------------------------------------------------------------


async def test_a_reload_changes_limits_level_and_certificate_and_drops_no_session(
    operated: Operated, server: ServerProcess, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate, private = tmp_path / "cert.pem", tmp_path / "key.pem"
    now = datetime.datetime.now(datetime.UTC)
    certificate.write_bytes(self_signed(key=key, domain="localhost", bind_host="127.0.0.1", now=now))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    before = get(server, "/healthz").certificate
    where = await reach(server)
    async with receiver(where, "ann", "tom") as ann, sender(where, "tom", "ann") as tom:
        told = operated.reload(TIGHT + "[timeouts]\nidle = 50.0\n")
        assert [line["event"] for line in lines_of(told)] == [
            "signal",
            "some settings need a restart",
            "configuration reloaded",
        ]
        assert lines_of(told)[1]["keys"] == ["timeouts.idle"]

        await say(tom, b"still here")
        assert [payload for _, payload in await take(ann, 1)] == [b"still here"]
        statuses = [get(server, "/healthz").status for _ in range(3)]
        assert statuses == [200, 200, 429]

    files = f'[server]\ntls_cert = "{certificate}"\ntls_key = "{private}"'
    operated.reload(LOOSE, server=files)
    assert get(server, "/healthz").certificate != before
    operated.reload(LOOSE)
    assert get(server, "/healthz").certificate == before


async def test_a_reload_puts_limits_of_the_services_in_force(
    operated: Operated, server: ServerProcess
) -> None:
    where = await reach(server)
    async with receiver(where, "ida", "tom"), sender(where, "tom", "ida") as tom:
        # Ida confirms nothing, so what comes stays.
        await say(tom, b"one")
        told = operated.reload(LOOSE, limits="[limits]\ninbox_rows = 1")
        assert [line["event"] for line in lines_of(told)] == ["signal", "configuration reloaded"]
        full = await tom.request(FrameType.MSG, CHANNEL, b"two")
        assert (full.error, [each.reason for each in full.refused]) == ("quota", ["quota"])
        operated.reload(LOOSE)
        await say(tom, b"three")

    small = "[attachments]\nmax_bytes = 10\nuser_bytes = 10\n[pairing]\nrequire_approval = true\n[server]"
    operated.reload(LOOSE, server=small)
    async with device(where, "eva", SEND_ONLY) as eva:
        kind = [("content-type", "application/json")]
        begun = await eva.exchange("POST", "/api/attachments", kind, b'{"size": 11}')
        assert begun.status == 400
        assert (await eva.get("/api/server-info"))["pairing"]["require_approval"] is True


def test_a_reload_replaces_the_administrators_token(operated: Operated, server: ServerProcess) -> None:
    fresh = "2e" * 32
    operated.load(CONFIG.replace(TOKEN, fresh) + LOOSE)
    assert get(server, "/metrics", f"authorization: Bearer {TOKEN}").status == 401
    assert get(server, "/metrics", f"authorization: Bearer {fresh}").status == 200


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("[security.rate_limit]\nhttp_burst = 0\n", "security.rate_limit.http_burst: must be from 1"),
        ("[security.rate_limit]\nhttp_burts = 1\n", "did you mean http_burst"),
        ("[limits\n", "not valid TOML"),
    ],
)
def test_a_configuration_with_a_mistake_changes_nothing_and_costs_one_line(
    operated: Operated, server: ServerProcess, more: str, reason: str
) -> None:
    signalled, line = lines_of(operated.reload(more))

    assert signalled["event"] == "signal"
    assert (line["event"], line["level"]) == ("configuration not reloaded, the old one stays", "error")
    assert reason in str(line["reason"])
    assert [get(server, "/healthz").status for _ in range(3)] == [200, 200, 200]


def test_a_certificate_that_does_not_fit_its_key_stays_out(
    operated: Operated, server: ServerProcess, tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_text("no key")
    before = get(server, "/healthz").certificate
    pair = f'[server]\ntls_cert = "{server.ca_file}"\ntls_key = "{tmp_path / "key.pem"}"'

    told = operated.reload(LOOSE, server=pair)

    assert [line["event"] for line in lines_of(told)] == [
        "signal",
        "configuration not reloaded, the old one stays",
    ]
    assert get(server, "/healthz").certificate == before


# -- proxies --------------------------------------------------------------------------------------------


def passed_on(client: str) -> bytes:
    return f"PROXY TCP4 {client} 198.51.100.1 40000 443\r\n".encode()


def test_clients_behind_a_proxy_count_apart(operated: Operated, server: ServerProcess) -> None:
    operated.reload(TIGHT)

    def status(client: str) -> int:
        return get(server, "/healthz", source=PROXY, before=passed_on(client)).status

    assert [status("192.0.2.7") for _ in range(3)] == [200, 200, 429]
    assert status("192.0.2.8") == 200
    assert get(server, "/healthz").status == 200


@pytest.mark.parametrize("before", [b"", b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 x y 1 2\r\n"])
def test_a_proxy_that_names_nobody_is_hung_up_on(server: ServerProcess, before: bytes) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        get(server, "/healthz", source=PROXY, before=before)


def test_a_stranger_cannot_name_another(server: ServerProcess) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        get(server, "/healthz", before=passed_on("192.0.2.7"))


# -- what is told ---------------------------------------------------------------------------------------


def test_metrics_are_the_administrators(server: ServerProcess) -> None:
    assert get(server, "/metrics").status == 401
    answer = get(server, "/metrics", f"authorization: Bearer {TOKEN}")

    assert answer.status == 200
    assert "\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n" in answer.text
    assert "\ncommucat_connections_active " in answer.text


async def test_the_log_holds_no_secret_and_no_content(operated: Operated, server: ServerProcess) -> None:
    """At level debug, over handshakes good and bad, messages, REST and admin requests."""
    where = await reach(server)
    content = b"kitten-content-7d1f"
    async with receiver(where, "eve", "sam") as eve, sender(where, "sam", "eve") as sam:
        await say(sam, content)
        await take(eve, 1)
        tokens = [eve.info.token, sam.info.token]
        for token in tokens:
            path = f"/api/devices/{device_id('eve')}/certificate"
            assert get(server, path, f"authorization: Bearer {token}").status == 200
    get(server, "/metrics", f"authorization: Bearer {TOKEN}")
    get(server, "/metrics", "authorization: Bearer wrong-token-4711")
    with pytest.raises(HandshakeRefused):
        async with device(where, "intruder", handle="eve", code=CODE):
            pass
    # It is written down once the client has been told.
    with trio.fail_after(DEADLINE):
        while "handshake failure" not in server.log.read_text():
            await trio.to_thread.run_sync(get, server, "/healthz")

    text = server.log.read_text()
    secrets = [
        *tokens,
        CODE,
        CODE.replace("-", ""),
        TOKEN,
        "wrong-token-4711",
        content.decode(),
        content.hex(),
    ]
    secrets += [(server.data_dir / "keys" / "federation.seed").read_text().strip()]
    assert [secret for secret in secrets if secret in text] == []
    events = {line["event"] for line in lines_of(text)}
    assert {"handshake established", "delivered frame", "connection closed", "device_key_event"} <= events
    assert "handshake failure" in events
