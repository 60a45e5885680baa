"""Runs the CCP-1 test vectors of STUN, TURN credentials and candidates against commucat_proto.stun."""

from collections.abc import Callable
from typing import Final

from commucat_proto import stun
from commucat_proto.errors import ProtoError

from .crypto_expectations import Case, expect, expect_hex, reporting, require_fields
from .failure import ConformanceFailure


def run_ice(_document: Case, case: Case) -> None:
    """One case of any of the three kinds."""
    runner = _KINDS.get(str(case.get("kind")))
    if runner is None:
        raise ConformanceFailure(f"unknown kind of case: {case.get('kind')!r}")
    try:
        runner(case)
    except ProtoError as exc:
        raise ConformanceFailure(f"refused: {exc}") from exc


def _run_stun(case: Case) -> None:
    require_fields(case, "kind public_address request_hex", "response_hex outcome")
    request = bytes.fromhex(case["request_hex"])
    public = stun.SocketAddress.parse(case["public_address"])
    try:
        wanted = stun.is_binding_request(request)
    except stun.StunError:
        expect("outcome", case.get("outcome"), "failure")
        return
    if not wanted:
        expect("outcome", case.get("outcome"), "ignore")
        return
    if "response_hex" not in case:
        raise ConformanceFailure("taken, expected no answer")
    # The reference server reports its own address.
    answer = stun.binding_answer(stun.decode(request).transaction, public, public)
    expect_hex("response", answer.encode(), case["response_hex"])
    mapped = answer.first(stun.AttributeType.XOR_MAPPED_ADDRESS) or b""
    expect(
        "address", stun.format_address(stun.xor_address(mapped, answer.transaction)), case["public_address"]
    )
    expect("response, read again", stun.decode(answer.encode()) == answer, True)


def _run_turn(case: Case) -> None:
    require_fields(case, "kind secret username_fragment expires username credential")
    username = stun.turn_username(case["expires"], case["username_fragment"])
    expect("username", username, case["username"])
    expect("credential", stun.turn_credential(case["secret"], username), case["credential"])


def _run_candidate(case: Case) -> None:
    require_fields(case, "kind address foundation priority candidate")
    address = stun.SocketAddress.parse(case["address"])
    expect("foundation", stun.foundation(address), case["foundation"])
    expect("priority", stun.HOST_PRIORITY, case["priority"])
    expect("candidate", stun.host_candidate(address), case["candidate"])


_KINDS: Final[dict[str, Callable[[Case], None]]] = {
    "stun": _run_stun,
    "turn": _run_turn,
    "candidate": _run_candidate,
}
RUNNERS: Final[dict[str, Callable[[Case, Case], None]]] = {"ice": reporting(run_ice)}
