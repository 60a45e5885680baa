"""Runs the CCP-1 test vectors of federation events against commucat_proto.federation."""

import json
from collections.abc import Callable
from typing import Final

from commucat_crypto import DeviceKeyPair
from commucat_proto.errors import ProtoError
from commucat_proto.federation import Event, EventVerificationError, SignedEvent, parse_instant
from commucat_proto.federation.instants import hashed

from .crypto_expectations import Case, expect, expect_hex, reporting, require_fields
from .failure import ConformanceFailure

_GIVEN: Final = "valid event digest_hex signature_hex public_hex"
_MADE: Final = "timestamp_nanos preimage_hex wire"
_EVENT: Final = "event_id origin created_at payload scope"


def run_federation(document: Case, case: Case) -> None:
    """Events that are made and believed, and those that are not."""
    try:
        if case.get("valid"):
            _run_made(document, case)
        else:
            _run_refused(case)
    except ProtoError as exc:
        raise ConformanceFailure(f"refused: {exc}") from exc


def _run_made(document: Case, case: Case) -> None:
    require_fields(case, f"{_GIVEN} {_MADE}")
    event = _event(case)
    nanoseconds = int(case["timestamp_nanos"])
    expect("instant", int.from_bytes(hashed(event.created_at), "little", signed=True), nanoseconds)
    keys = DeviceKeyPair.from_seed(bytes.fromhex(document["seed_hex"]))
    expect_hex("public key", keys.public, case["public_hex"])
    signed = event.sign(keys)
    expect_hex("digest", signed.digest, case["digest_hex"])
    expect_hex("signature", signed.signature, case["signature_hex"])
    expect("wire", signed.encode().decode(), case["wire"])
    received = SignedEvent.decode(case["wire"].encode())
    expect("what was read, written again", received.encode().decode(), case["wire"])
    received.verify(keys.public)
    _check_preimage(event, case)


def _check_preimage(event: Event, case: Case) -> None:
    names = event.event_id + event.origin + event.scope
    preimage = bytes.fromhex(case["preimage_hex"])
    expect("names in the preimage", preimage[: len(names.encode())].decode(), names)
    behind = preimage[len(names.encode()) :]
    expect_hex("instant in the preimage", hashed(event.created_at), behind[:8].hex())
    expect("payload in the preimage", json.loads(behind[8:]), case["event"]["payload"])


def _run_refused(case: Case) -> None:
    require_fields(case, f"{_GIVEN} error")
    signed = SignedEvent(
        event=_event(case),
        signature=bytes.fromhex(case["signature_hex"]),
        digest=bytes.fromhex(case["digest_hex"]),
    )
    try:
        signed.verify(bytes.fromhex(case["public_hex"]))
    except EventVerificationError as exc:
        expect("error", exc.reason.value, case["error"])
    else:
        raise ConformanceFailure(f"accepted, expected the error {case['error']}")


def _event(case: Case) -> Event:
    given = case["event"]
    require_fields(given, _EVENT)
    return Event(
        event_id=given["event_id"],
        origin=given["origin"],
        created_at=parse_instant(given["created_at"]),
        payload=given["payload"],
        scope=given["scope"],
    )


RUNNERS: Final[dict[str, Callable[[Case, Case], None]]] = {"federation": reporting(run_federation)}
