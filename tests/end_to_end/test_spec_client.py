"""The real server against a client that knows nothing but the protocol description."""

import contextlib
import hashlib
import itertools
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from end_to_end.spec_client import (
    DEADLINE,
    MAX_NOISE_MESSAGE,
    MAX_NOISE_PLAINTEXT,
    PROOF_DOMAIN,
    Device,
    Endpoint,
    Frame,
    FrameType,
    Http2,
    JsonObject,
    Proof,
    ServerInfo,
    Session,
    StreamEndedError,
    certificate_bytes,
    certificate_is_valid,
    connect,
    cut,
    device_private,
    device_public,
    ed25519_scalar,
    proof_challenge,
    proof_context,
    prove,
    server_info,
    take_frame,
)

VECTORS = Path(__file__).parent.parent / "vectors"
CHANNEL = 7
REFUSED = {"error": "handshake", "detail": "invalid request"}


def vectors(name: str) -> list[JsonObject]:
    cases: list[JsonObject] = json.loads((VECTORS / name).read_text(encoding="utf-8"))["cases"]
    return cases


# The server process


@dataclass(frozen=True)
class Server:
    endpoint: Endpoint
    info: ServerInfo

    def connect(
        self, device: Device, pattern: str = "XK", capabilities: Sequence[str] = ("delivery-ack",)
    ) -> Session:
        return connect(self.endpoint, self.info, device, pattern, capabilities)

    def get(self, path: str, session: Session) -> tuple[int, JsonObject]:
        token = session.ack.json()["session"]
        with Http2(self.endpoint) as http:
            return http.get(path, {"authorization": f"Bearer {token}"})


def read_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    deadline = time.monotonic() + DEADLINE
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            assert selector.select(max(deadline - time.monotonic(), 0)), "the server printed no line in time"
            data = os.read(descriptor, 1)
            assert data, "the server ended before it listened"
            line += data
    return line.decode("utf-8").strip()


@contextlib.contextmanager
def server_process(data: Path, log: Path) -> Iterator[str]:
    """Run the server; yields the line that tells its address."""
    binary = str(Path(sys.executable).parent / "commucat-server")
    command = [binary, "--data-dir", str(data), "--bind", "127.0.0.1:0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COMMUCAT_")}
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, cwd=log.parent, env=environment, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        try:
            yield read_line(process)
            process.terminate()
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("server")
    data = home / "data"
    with server_process(data, home / "server.log") as line:
        text, _, address = line.rpartition("https://")
        assert text == "listening on "
        host, _, port = address.rpartition(":")
        endpoint = Endpoint(host, int(port), data / "tls" / "cert.pem")
        yield Server(endpoint, server_info(endpoint))


@dataclass(frozen=True)
class Pair:
    """Two devices of two new users, with the routes from each to the other."""

    alice: Session
    bob: Session

    def names(self) -> tuple[str, str]:
        return self.alice.device.device_id, self.bob.device.device_id


def new_device(name: str) -> Device:
    return Device(f"{name}-device", name)


@contextlib.contextmanager
def conversation(
    server: Server, name: str, capabilities: Sequence[str] = ("delivery-ack",)
) -> Iterator[Pair]:
    with (
        server.connect(new_device(f"{name}-alice")) as alice,
        server.connect(new_device(f"{name}-bob"), capabilities=capabilities) as bob,
    ):
        pair = Pair(alice, bob)
        for session, peer in zip((alice, bob), reversed(pair.names()), strict=True):
            session.join(CHANNEL, [peer])
        yield pair


def long_payload(size: int) -> bytes:
    return hashlib.shake_256(b"payload").digest(size)


def assert_accepted(ack: Frame, sequence: int) -> None:
    assert (ack.kind, ack.channel, ack.json()) == (FrameType.ACK, CHANNEL, {"ack": sequence})


# The client itself against the published vectors


def plain_frames() -> list[JsonObject]:
    """Those whose payload bytes stay as they are; this client does not rewrite JSON."""
    cases = [case for case in vectors("frames_good.json") if "frame_hex" in case]
    return [case for case in cases if case["kind"] == "roundtrip" or case["payload_kind"] == "opaque"]


@pytest.mark.parametrize("case", plain_frames(), ids=lambda c: c["name"])
def test_frames_are_the_published_ones(case: JsonObject) -> None:
    data = bytes.fromhex(case["frame_hex"])
    buffer = bytearray(data + b"behind")
    frame = take_frame(buffer)
    assert frame is not None
    assert (frame.kind, frame.channel) == (case["type_code"], case["channel_id"])
    assert frame.sequence == case["sequence"]
    assert frame.encode().hex() == case.get("reencoded_hex", case["frame_hex"])
    assert buffer == b"behind"


@pytest.mark.parametrize("case", [c for c in vectors("zkp.json") if c["valid"]], ids=lambda c: c["name"])
def test_the_proof_is_the_published_one(case: JsonObject) -> None:
    private = device_private(bytes.fromhex(case["seed_hex"]))
    public = device_public(private)
    client_static = bytes.fromhex(case["client_static_hex"])
    context = proof_context(case["domain"], case["device_id"], public, client_static)
    proof = prove(private, context, bytes.fromhex(case["randomness_hex"]))
    assert context.hex() == case["context_hex"]
    assert proof_challenge(context, public, proof.commitment).hex() == case["challenge_hex"]
    assert (proof.commitment.hex(), proof.response.hex()) == (case["commitment_hex"], case["response_hex"])


@pytest.mark.parametrize(
    "case", [c for c in vectors("device_keys.json") if "public_hex" in c], ids=lambda c: c["name"]
)
def test_device_keys_are_the_published_ones(case: JsonObject) -> None:
    private = device_private(bytes.fromhex(case["seed_hex"]))
    assert private.hex() == case["private_hex"]
    assert device_public(private).hex() == case["public_hex"]
    assert ed25519_scalar(private).hex() == case["scalar_mod_l_hex"]


@pytest.mark.parametrize(
    "case", [c for c in vectors("certificates.json") if c["valid"]], ids=lambda c: c["name"]
)
def test_certificates_are_the_published_ones(case: JsonObject) -> None:
    data = case["data"]
    wire = next(value for name, value in case.items() if name.startswith("wire"))
    certificate = json.loads(wire)
    assert certificate_bytes(data).hex() == case["canonical_hex"]
    assert certificate_is_valid(certificate, bytes.fromhex(data["issuer"]))
    assert not certificate_is_valid(certificate | {"serial": 12345}, bytes.fromhex(data["issuer"]))


# Handshake


def assert_message_2(session: Session, info: ServerInfo) -> None:
    auth, identity = session.auth.json(), session.identity
    assert (session.auth.channel, session.auth.sequence) == (0, 1)
    assert auth["server_static"] == info.noise_public.hex()
    assert (auth["device_id"], auth["protocol_version"]) == (session.device.device_id, 1)
    assert auth["supported_versions"] == [1]
    assert (identity["session"], identity["domain"]) == (auth["session"], info.domain)
    assert identity["protocol_version"] == 1
    assert identity["user"]["handle"] == session.device.handle
    assert identity["user"]["id"] == identity["user"]["user_id"] == identity["user_id"]


def assert_final_ack(session: Session, info: ServerInfo) -> None:
    ack = session.ack.json()
    assert (session.ack.channel, session.ack.sequence) == (0, 2)
    assert ack["handshake"] == "ok"
    assert (ack["session"], ack["user_id"]) == (session.identity["session"], session.identity["user_id"])
    assert ack["noise_public"] == info.noise_public.hex()
    assert ack["device_ca_public"] == info.device_ca_public.hex()
    assert ack["inbox"]["epoch"]
    assert ack["inbox"]["next"] >= 1
    assert_certificate(ack["device_certificate"], session, info)


def assert_certificate(certificate: JsonObject, session: Session, info: ServerInfo) -> None:
    assert certificate_is_valid(certificate, info.device_ca_public)
    assert certificate["device_id"] == session.device.device_id
    assert certificate["user_id"] == session.identity["user_id"]
    assert certificate["public_key"] == session.device.public.hex()
    assert certificate["expires_at"] - certificate["issued_at"] == 30 * 24 * 3600


def test_two_new_users_come_in_by_xk(server: Server) -> None:
    assert server.info.domain == "localhost"
    with conversation(server, "xk") as pair:
        for session in (pair.alice, pair.bob):
            assert_message_2(session, server.info)
            assert_final_ack(session, server.info)
            assert session.wire.response["content-type"] == "application/octet-stream"
            assert session.wire.response["x-commucat-connect-mode"] == "binary"
        first, second = pair.alice.ack.json(), pair.bob.ack.json()
        assert first["user_id"] != second["user_id"]
        assert first["session"] != second["session"]


def test_after_the_final_ack_everything_is_encrypted(server: Server) -> None:
    with server.connect(new_device("cipher-alice")) as alice:
        ack = alice.join(CHANNEL, [])
        assert_accepted(ack, 3)
        assert ack.sequence == 3
        assert alice.wire.noise_sizes == [len(ack.encode()) + 16]
        assert ack.payload not in alice.wire.encrypted_bytes


def test_a_clear_frame_after_the_handshake_ends_the_session(server: Server) -> None:
    with server.connect(new_device("clear-alice")) as alice:
        alice.wire.send_clear(Frame.of_json(FrameType.JOIN, CHANNEL, 3, {"members": ["somebody-else"]}))
        assert alice.wire.wait_for_end() == b""


def test_a_known_device_comes_in_by_ik(server: Server) -> None:
    device = new_device("ik-alice")
    with server.connect(device) as first:
        user = first.identity["user_id"]
    with conversation(server, "ik-peers") as pair, server.connect(device, "IK") as alice:
        assert_message_2(alice, server.info)
        assert_final_ack(alice, server.info)
        assert alice.identity["user_id"] == user
        assert alice.ack.json()["inbox"]["epoch"] == first.ack.json()["inbox"]["epoch"]
        assert_accepted(alice.join(CHANNEL, [pair.bob.device.device_id]), 2)


def test_ik_carries_messages_both_ways(server: Server) -> None:
    with conversation(server, "ik-both") as pair, server.connect(pair.alice.device, "IK") as alice:
        assert_accepted(alice.message(CHANNEL, b"by IK"), 2)
        assert pair.bob.receive(FrameType.MSG).payload == b"by IK"
        pair.bob.message(CHANNEL, b"and back")
        assert alice.receive(FrameType.MSG).payload == b"and back"


def foreign_key(device: Device, domain: str) -> Proof:
    return Device(device.device_id, device.handle, noise_private=device.noise_private).prove(domain)


def foreign_domain(device: Device, domain: str) -> Proof:
    return device.prove(domain + ".example")


def foreign_static(device: Device, domain: str) -> Proof:
    return Device(device.device_id, device.handle, private=device.private).prove(domain)


def altered_response(device: Device, domain: str) -> Proof:
    proof = device.prove(domain)
    return replace(proof, response=bytes([proof.response[0] ^ 1]) + proof.response[1:])


def domain_hashed_once(device: Device, domain: str) -> Proof:
    context = proof_context(domain, device.device_id, device.public, device.noise_public)
    return prove(device.private, context.removeprefix(PROOF_DOMAIN), bytes(range(64)))


WrongProof = Callable[[Device, str], Proof]


@pytest.mark.parametrize(
    "wrong", [foreign_key, foreign_domain, foreign_static, altered_response, domain_hashed_once]
)
def test_a_wrong_proof_is_refused(server: Server, wrong: WrongProof) -> None:
    device = new_device(f"wrong-{wrong.__name__}")
    with Session(server.endpoint, server.info, device) as session:
        session.say_hello("XK", proof=wrong(device, server.info.domain))
        error = session.wire.receive_clear()
        assert (error.kind, error.channel, error.sequence) == (FrameType.ERROR, 0, 1)
        assert error.json() == REFUSED
        assert session.wire.wait_for_end() == b""
    with server.connect(device) as honest:
        assert honest.ack.json()["handshake"] == "ok"


def test_a_noise_key_other_than_the_proved_one_is_refused(server: Server) -> None:
    device = new_device("other-static")
    with Session(server.endpoint, server.info, device) as session:
        noise = session.say_hello("XK", noise_private=bytes(range(32)))
        session.read_auth(noise)
        session.send_message_3(noise)
        error = session.wire.receive_clear()
        assert (error.kind, error.channel, error.sequence) == (FrameType.ERROR, 0, 2)
        assert error.json()["error"] == "handshake"
        assert session.wire.wait_for_end() == b""


def test_message_1_for_another_server_key_is_refused(server: Server) -> None:
    device = new_device("other-server")
    stranger = replace(server.info, noise_public=new_device("stranger").noise_public)
    with Session(server.endpoint, stranger, device) as session:
        session.say_hello("XK")
        assert session.wire.receive_clear().json() == REFUSED


# Messages


def test_messages_go_both_ways(server: Server) -> None:
    with conversation(server, "both") as pair:
        for sender, receiver in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
            number = receiver.ack.json()["inbox"]["next"]
            for payload in (b"\x00\xff not text", b"", b'{"text":""}'):
                assert_accepted(sender.message(CHANNEL, payload), sender.last_sequence)
                received = receiver.receive(FrameType.MSG)
                assert (received.channel, received.sequence, received.payload) == (CHANNEL, number, payload)
                number += 1
            receiver.confirm(number - 1)


@pytest.mark.parametrize("size", [200_000, 1_000_000])
def test_long_frames_are_split_over_noise_messages_both_ways(server: Server, size: int) -> None:
    payload = long_payload(size)
    with conversation(server, f"long-{size}") as pair:
        for sender, receiver in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
            sender.send(FrameType.MSG, CHANNEL, payload)
            receiver.wire.noise_sizes.clear()
            received = receiver.receive(FrameType.MSG)
            assert received.payload == payload
            assert_accepted(sender.receive(FrameType.ACK), sender.last_sequence)
            assert len(receiver.wire.noise_sizes) >= len(cut(received.encode(), MAX_NOISE_PLAINTEXT))
            assert max(receiver.wire.noise_sizes) <= MAX_NOISE_MESSAGE
            assert payload[:1000] not in receiver.wire.encrypted_bytes


def test_several_frames_in_one_noise_message(server: Server) -> None:
    texts = [b"one", b"two", long_payload(3000)]
    with conversation(server, "packed") as pair:
        frames = [Frame(FrameType.MSG, CHANNEL, pair.alice.next_sequence(), text) for text in texts]
        pair.alice.wire.send_noise([b"".join(frame.encode() for frame in frames)])
        for frame in frames:
            assert_accepted(pair.alice.receive(FrameType.ACK), frame.sequence)
        assert_in_order(pair.bob, texts)


def assert_in_order(session: Session, texts: Sequence[bytes]) -> list[int]:
    received = [session.receive(FrameType.MSG) for _ in texts]
    assert [frame.payload for frame in received] == list(texts)
    numbers = [frame.sequence for frame in received]
    assert numbers == sorted(set(numbers))
    return numbers


def split(data: bytes, borders: Sequence[int]) -> list[bytes]:
    edges = [0, *borders, len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@pytest.mark.parametrize(
    "borders", [[1], [0, 1, 2, 3, 4, 5, 6], [1, 2, 9, 9, 500, 501, 2010, 2011, 2012]], ids=str
)
@pytest.mark.parametrize("chunk", [None, 37])
def test_frames_cut_anywhere_over_noise_messages(
    server: Server, borders: list[int], chunk: int | None
) -> None:
    texts = [long_payload(2000), b"a", b""]
    with conversation(server, f"cut-{len(borders)}-{chunk}") as pair:
        frames = [Frame(FrameType.MSG, CHANNEL, pair.alice.next_sequence(), text) for text in texts]
        pair.alice.wire.data_chunk = chunk
        pair.alice.wire.send_noise(split(b"".join(frame.encode() for frame in frames), borders))
        for frame in frames:
            assert_accepted(pair.alice.receive(FrameType.ACK), frame.sequence)
        assert_in_order(pair.bob, texts)


# Offline delivery and confirmation


def test_an_offline_device_gets_its_messages_at_the_next_connect(server: Server) -> None:
    texts = [b"first", long_payload(200_000), b"last"]
    with conversation(server, "offline") as pair:
        pair.bob.close()
        for text in texts:
            assert_accepted(pair.alice.message(CHANNEL, text), pair.alice.last_sequence)
        with server.connect(pair.bob.device, "IK") as bob:
            assert_in_order(bob, texts)


def test_confirmed_messages_do_not_come_again(server: Server) -> None:
    with conversation(server, "confirm") as pair:
        for text in (b"1", b"2", b"3"):
            pair.alice.message(CHANNEL, text)
        numbers = assert_in_order(pair.bob, [b"1", b"2", b"3"])
        pair.bob.confirm(numbers[1])
        with server.connect(pair.bob.device) as bob:
            assert assert_in_order(bob, [b"3"]) == numbers[2:]
            bob.confirm(numbers[2])
        pair.alice.message(CHANNEL, b"4")
        with server.connect(pair.bob.device) as bob:
            assert assert_in_order(bob, [b"4"])[0] > numbers[2]
            assert bob.waiting == []


def test_unconfirmed_messages_come_again_with_their_number(server: Server) -> None:
    with conversation(server, "again") as pair:
        pair.alice.message(CHANNEL, b"not confirmed")
        numbers = assert_in_order(pair.bob, [b"not confirmed"])
        pair.bob.wire.http.round_trip()
        for pattern in ("XK", "IK"):
            with server.connect(pair.bob.device, pattern) as bob:
                assert assert_in_order(bob, [b"not confirmed"]) == numbers


def test_without_delivery_ack_the_answered_ping_confirms(server: Server) -> None:
    with conversation(server, "ping", capabilities=()) as pair:
        pair.alice.message(CHANNEL, b"seen")
        (number,) = assert_in_order(pair.bob, [b"seen"])
        pair.bob.wire.http.wait_for_ping()
        pair.bob.close()
        pair.alice.message(CHANNEL, b"news")
        with server.connect(pair.bob.device) as bob:
            assert assert_in_order(bob, [b"news"])[0] > number


def test_without_an_answered_ping_messages_come_again(server: Server) -> None:
    with conversation(server, "mute", capabilities=()) as pair:
        pair.bob.wire.http.muted = True
        pair.alice.message(CHANNEL, b"read, never answered")
        numbers = assert_in_order(pair.bob, [b"read, never answered"])
        with server.connect(pair.bob.device) as bob:
            assert assert_in_order(bob, [b"read, never answered"]) == numbers


def test_a_newer_session_replaces_the_older_one(server: Server) -> None:
    with server.connect(new_device("newer")) as old, server.connect(old.device):
        error = old.wire.receive_noise()
        assert (error.kind, error.json()["error"]) == (FrameType.ERROR, "replaced")
        with pytest.raises(StreamEndedError):
            old.wire.receive_noise()


def test_a_send_only_session_neither_receives_nor_replaces(server: Server) -> None:
    with (
        conversation(server, "send-only") as pair,
        server.connect(pair.alice.device, capabilities=("send-only",)) as side,
    ):
        assert_accepted(side.message(CHANNEL, b"from the side"), side.last_sequence)
        assert pair.bob.receive(FrameType.MSG).payload == b"from the side"
        pair.bob.message(CHANNEL, b"to the main session")
        assert pair.alice.receive(FrameType.MSG).payload == b"to the main session"
        side.join(CHANNEL, [pair.bob.device.device_id])
        assert side.waiting == []


# The certificate over REST


def test_the_certificate_of_a_device_is_signed_by_the_server(server: Server) -> None:
    with conversation(server, "certified") as pair:
        path = f"/api/devices/{pair.alice.device.device_id}/certificate"
        for reader in (pair.alice, pair.bob):
            status, answer = server.get(path, reader)
            assert status == 200
            assert_certificate(answer["certificate"], pair.alice, server.info)
        with Http2(server.endpoint) as http:
            assert http.get(path)[0] == 401
