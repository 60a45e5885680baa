"""The STUN responder: who gets which answer, how long it is, and what a UDP socket makes of it."""

import socket
from collections.abc import Iterator

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from commucat_crypto import DeviceKeyPair
from commucat_proto import stun
from commucat_proto.stun import Attribute, AttributeType, Integrity
from commucat_server.config import BindAddress
from commucat_server.nat.credentials import IceCredentials
from commucat_server.nat.responder import MAX_DATAGRAM, MAX_GROWTH, Responder, rate_limit
from commucat_server.nat.udp import StunBindError, open_stun, serve_stun, stun_socket
from commucat_server.ops.counters import Counters

NOW = 1_800_000_000
KEYS = DeviceKeyPair.from_seed(bytes(32))
PUBLIC = stun.SocketAddress.parse("203.0.113.7:3478")
SENDERS = [stun.SocketAddress.parse("198.51.100.9:50000"), stun.SocketAddress.parse("[2001:db8::9]:50000")]
TRANSACTION = bytes(range(12))
PLAIN = stun.binding_request(TRANSACTION)


@attrs.define
class Clock:
    now: float = float(NOW)

    def __call__(self) -> float:
        return self.now


def responder_of(clock: Clock, rate: int = 1000, counters: Counters | None = None) -> Responder:
    return Responder(IceCredentials(KEYS, clock), PUBLIC, rate_limit(rate, clock), counters or Counters())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def responder(clock: Clock) -> Responder:
    return responder_of(clock)


def mapped(answer: bytes | None, key: bytes | None = None) -> tuple[stun.SocketAddress, Integrity | None]:
    assert answer is not None
    message, proved = stun.verify(answer, key)
    assert (message.kind, message.transaction) == (stun.Kind.SUCCESS, TRANSACTION)
    return stun.xor_address(message.first(AttributeType.XOR_MAPPED_ADDRESS) or b"", TRANSACTION), proved


def refusal(answer: bytes | None) -> int:
    assert answer is not None
    message, _ = stun.verify(answer)
    assert message.kind is stun.Kind.ERROR
    return stun.parse_error(message.first(AttributeType.ERROR_CODE) or b"")[0]


def with_name(username: str) -> stun.StunMessage:
    return stun.binding_request(TRANSACTION, Attribute(AttributeType.USERNAME, username.encode()))


@pytest.mark.parametrize("sender", SENDERS, ids=str)
@pytest.mark.parametrize("fingerprint", [False, True])
def test_w11_the_senders_address_is_reported_and_the_answer_is_hardly_longer(
    responder: Responder, sender: stun.SocketAddress, fingerprint: bool
) -> None:
    request = stun.seal(PLAIN, fingerprint=fingerprint)
    answer = responder.answer(request, sender)
    assert mapped(answer)[0] == sender
    assert answer is not None
    assert len(answer) <= len(request) + MAX_GROWTH
    assert (b"\x80\x28" in answer) is fingerprint


@pytest.mark.parametrize("integrity", Integrity)
@pytest.mark.parametrize("suffix", ["", ":peer"])
def test_an_issued_credential_gets_an_answer_that_its_password_proves(
    responder: Responder, integrity: Integrity, suffix: str
) -> None:
    credential = responder.credentials.issue(60)
    key = credential.password.encode()
    request = stun.seal(
        with_name(credential.fragment + suffix), key=key, integrity=integrity, fingerprint=True
    )
    answer = responder.answer(request, SENDERS[0])
    assert mapped(answer, key) == (SENDERS[0], integrity)
    assert answer is not None
    message = stun.decode(answer)
    assert message.first(AttributeType.SOFTWARE) == stun.SOFTWARE.encode()
    assert message.attributes[-1].type == AttributeType.FINGERPRINT


def test_another_password_an_unknown_name_and_an_ended_one_are_not_let_in(
    responder: Responder, clock: Clock
) -> None:
    credential = responder.credentials.issue(60)
    right = credential.password.encode()
    wrong = stun.seal(with_name(credential.fragment), key=b"wrong")
    unknown = stun.seal(with_name("ffffffff00000000"), key=right)
    good = stun.seal(with_name(credential.fragment), key=right)
    assert [refusal(responder.answer(each, SENDERS[0])) for each in (wrong, unknown)] == [401, 401]
    assert mapped(responder.answer(good, SENDERS[0]))[0] == SENDERS[0]
    clock.now += 60
    assert refusal(responder.answer(good, SENDERS[0])) == 401
    assert responder.counters.ice_failures == {"401": 3}


@pytest.mark.parametrize(
    "name", ["", "short", "FFFFFFFF00000000", "ffffffff0000000 ", "zzzzzzzz00000000", "ü" * 8]
)
def test_names_of_another_form_have_no_password(responder: Responder, name: str) -> None:
    assert responder.credentials.password_of(name.encode()) is None


def test_every_process_of_one_identity_knows_the_credential_and_no_other_does(clock: Clock) -> None:
    credential = IceCredentials(KEYS, clock).issue(60)
    name, password = credential.fragment.encode(), credential.password.encode()
    assert IceCredentials(KEYS, clock).password_of(name) == password
    other = IceCredentials(DeviceKeyPair.from_seed(bytes(31) + b"x"), clock)
    assert other.password_of(name) != password


def test_a2_credentials_do_not_come_from_the_clock(clock: Clock) -> None:
    made = [IceCredentials(KEYS, clock).issue(60) for _ in range(50)]
    assert len({each.fragment for each in made}) == len({each.password for each in made}) == 50
    assert "password" not in repr(made[0])


def test_a_name_without_integrity_and_integrity_without_a_name_are_bad_requests(responder: Responder) -> None:
    named = with_name(responder.credentials.issue(60).fragment).encode()
    sealed = stun.seal(PLAIN, key=b"k")
    assert [refusal(responder.answer(each, SENDERS[0])) for each in (named, sealed)] == [400, 400]


def test_attributes_that_must_be_understood_are_named_and_others_are_passed_over(
    responder: Responder,
) -> None:
    asked = stun.binding_request(
        TRANSACTION, Attribute(0x0026, b""), Attribute(0x0003, b""), Attribute(0x9000, b"")
    )
    answer = responder.answer(asked.encode(), SENDERS[0])
    assert refusal(answer) == 420
    assert answer is not None
    named = stun.decode(answer).first(AttributeType.UNKNOWN_ATTRIBUTES)
    assert stun.parse_unknown(named or b"") == (0x0026, 0x0003)
    optional = stun.binding_request(TRANSACTION, Attribute(0x9000, b"x"))
    assert mapped(responder.answer(optional.encode(), SENDERS[0]))[0] == SENDERS[0]


def test_what_is_no_request_is_ignored_and_a_broken_one_is_counted(responder: Responder) -> None:
    ignored = [b"", bytes(19), bytes(40), stun.binding_answer(TRANSACTION, PUBLIC).encode()]
    broken = [
        PLAIN.encode()[:2] + b"\x00\x04" + PLAIN.encode()[4:],
        PLAIN.encode() + b"x",
        PLAIN.encode()[:4] + bytes(16),
    ]
    assert [responder.answer(each, SENDERS[0]) for each in ignored + broken] == [None] * 7
    # The vectors of the reference count only what is broken.
    assert responder.counters.ice_failures == {"malformed": 3}


def test_one_address_is_answered_so_often_and_others_are_not_concerned(clock: Clock) -> None:
    responder = responder_of(clock, rate=3)
    request = PLAIN.encode()
    answered = [responder.answer(request, SENDERS[0]) is not None for _ in range(5)]
    assert answered == [True, True, True, False, False]
    assert responder.answer(request, SENDERS[1]) is not None
    clock.now += 1
    assert responder.answer(request, SENDERS[0]) is not None
    assert responder.counters.ice_failures == {"limited": 2}


@given(st.binary(max_size=100) | st.binary(max_size=80).map(lambda tail: PLAIN.encode()[:20] + tail))
def test_any_datagram_is_answered_briefly_or_not_at_all(datagram: bytes) -> None:
    answer = responder_of(Clock()).answer(datagram, SENDERS[1])
    assert answer is None or len(answer) <= len(datagram) + MAX_GROWTH


@pytest.fixture(params=["127.0.0.1", "::1", "::"])
def opened(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    with open_stun(BindAddress(host=request.param, port=0)) as found:
        yield found


async def test_over_a_socket_each_asker_learns_its_own_address(
    opened: socket.socket, responder: Responder, nursery: trio.Nursery
) -> None:
    nursery.start_soon(serve_stun, opened, responder)
    host, port = opened.getsockname()[:2]
    families = {"127.0.0.1": ["127.0.0.1"], "::1": ["::1"], "::": ["::1", "127.0.0.1"]}
    for target in families[host]:
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        with trio.socket.socket(family, socket.SOCK_DGRAM) as asker:
            await asker.bind((target, 0))
            # Neither of these is answered, so the answer is to the third.
            await asker.sendto(b"hello", (target, port))
            await asker.sendto(PLAIN.encode() + bytes(MAX_DATAGRAM), (target, port))
            await asker.sendto(PLAIN.encode(), (target, port))
            with trio.fail_after(60):
                answer = await asker.recv(MAX_DATAGRAM)
            assert mapped(answer)[0] == stun.SocketAddress.of(*asker.getsockname()[:2])


async def test_an_asker_that_has_gone_stops_nobody(responder: Responder, nursery: trio.Nursery) -> None:
    with open_stun(BindAddress(host="127.0.0.1", port=0)) as opened:
        async with trio.open_nursery() as serving:
            serving.start_soon(serve_stun, opened, responder)
            for _ in range(20):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
                    gone.sendto(PLAIN.encode(), opened.getsockname())
            with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
                await asker.bind(("127.0.0.1", 0))
                await asker.sendto(PLAIN.encode(), opened.getsockname())
                with trio.fail_after(60):
                    assert mapped(await asker.recv(MAX_DATAGRAM))[0].port == asker.getsockname()[1]
            serving.cancel_scope.cancel()


def test_a_busy_port_is_one_clear_line() -> None:
    with open_stun(BindAddress(host="127.0.0.1", port=0)) as first:
        port = first.getsockname()[1]
        with (
            pytest.raises(StunBindError) as caught,
            stun_socket(BindAddress(host="127.0.0.1", port=port), None),
        ):
            pytest.fail("opened twice")
    said = str(caught.value)
    assert said.startswith(f"the STUN responder cannot use 127.0.0.1:{port}: another program")
    assert "ice.lite_bind" in said
    assert "\n" not in said


def test_an_address_of_another_machine_is_one_clear_line() -> None:
    with pytest.raises(StunBindError, match=r"cannot use 203\.0\.113\.7:0"):
        open_stun(BindAddress(host="203.0.113.7", port=0))
