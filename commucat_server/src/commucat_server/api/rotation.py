"""A device changes its key."""

import re
from datetime import datetime
from typing import Any

from litestar import Response, post

from commucat_server.api.answers import ApiRequest, Handlers, json_answer
from commucat_server.api.authentication import authenticate
from commucat_server.api.bodies import hex_of, read_object, text_of
from commucat_server.api.context import ApiContext
from commucat_server.api.openapi import documented
from commucat_server.api.problems import ProblemError
from commucat_server.api.schemas import DEVICE_ID, KEY, hexadecimal, nullable, record, ref, text, time
from commucat_server.identity.rotation import Rotated, RotationProofError, RotationRequest
from commucat_server.ops.times import rfc3339
from commucat_storage import RotationRefusal, RotationRefusedError

MIN_NONCE_LEN = 8
MAX_NONCE_LEN = 64
# RFC 3339, section 5.6; Python's own parser takes much else that ISO 8601 allows.
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_REFUSALS = {
    RotationRefusal.UNKNOWN: "device not found",
    RotationRefusal.KEY_CHANGED: "the device's key has changed meanwhile",
    RotationRefusal.TOO_SOON: "rotation interval not elapsed",
    RotationRefusal.KEY_USED: "public key was used before",
}

REQUEST = record(
    {
        "public_key": hexadecimal(32, "The new Ed25519 key."),
        "signature": hexadecimal(64, "Ed25519 by the present key; see docs/protocol.md."),
        "expires_at": time("Until when the signature may be used."),
        "nonce": nullable(text("8 to 64 bytes in hexadecimal digits.", pattern="^([0-9a-fA-F]{2}){8,64}$")),
        "new_key_signature": nullable(hexadecimal(64, "Ed25519 by the new key over the same.")),
    },
    optional=["nonce", "new_key_signature"],
)
ROTATED = record(
    {
        "device_id": DEVICE_ID,
        "user_id": text(),
        "public_key": KEY,
        "old_public_key": KEY,
        "rotation_id": text(),
        "event_id": text(),
        "applied_at": time(),
        "proof_expires_at": time(),
        "certificate": ref("Certificate"),
    }
)


def handlers(context: ApiContext) -> Handlers:
    """``/api/device/csr``."""

    @post(
        "/api/device/csr",
        status_code=200,
        opt=documented(
            "Change the key of the calling device",
            tag="devices",
            description="The old key's certificates are revoked, and its sessions, the caller's included, "
            "end: connect again with the new key. Whoever writes to the device is told by KeyUpdate.",
            session=True,
            body=REQUEST,
            ok={200: ROTATED},
            problems={
                400: "The body is not what is described, or the proof does not hold.",
                404: "The server does not let keys change.",
                409: "The key is no new one, or was changed not long ago.",
            },
        ),
    )
    async def rotate(request: ApiRequest) -> Response[dict[str, Any]]:
        policy = context.rotations.policy
        if not policy.enabled:
            raise ProblemError(404)
        caller = await authenticate(request, context)
        value = await caller.gave(read_object(request, empty="request body required"))
        asked = _request_of(value, now=context.clock(), proof_ttl=policy.proof_ttl)
        if asked.public_key == caller.device.public_key:
            raise ProblemError(409, "public key unchanged")
        try:
            rotated = await context.rotations.rotate(caller.device, asked)
        except RotationProofError as exc:
            raise ProblemError(400, str(exc)) from exc
        except RotationRefusedError as exc:
            raise ProblemError(409, _detail_of(exc)) from exc
        return json_answer(_rotated_json(rotated, caller.user.user_id))

    return [rotate]


def _detail_of(refused: RotationRefusedError) -> str:
    detail = _REFUSALS[refused.refusal]
    return detail if refused.retry_at is None else f"{detail}; try again at {rfc3339(refused.retry_at)}"


def _request_of(value: dict[str, Any], *, now: float, proof_ttl: int) -> RotationRequest:
    public_key = hex_of(value, "public_key", 32, "invalid public_key")
    if public_key is None:
        raise ProblemError(400, "invalid public_key")
    signature = hex_of(value, "signature", 64, "invalid signature encoding")
    if signature is None:
        raise ProblemError(400, "invalid signature encoding")
    expires_at = _unix_seconds(text_of(value, "expires_at") or "")
    if expires_at <= now:
        raise ProblemError(400, "proof expired")
    if expires_at > now + proof_ttl:
        raise ProblemError(400, "expires_at exceeds proof_ttl")
    nonce = hex_of(value, "nonce", None, "invalid nonce")
    if nonce is not None and not MIN_NONCE_LEN <= len(nonce) <= MAX_NONCE_LEN:
        raise ProblemError(400, "invalid nonce")
    return RotationRequest(
        public_key=public_key,
        signature=signature,
        expires_at=int(expires_at),
        nonce=nonce,
        new_key_signature=hex_of(value, "new_key_signature", 64, "invalid new_key_signature"),
    )


def _unix_seconds(text: str) -> float:
    if not _RFC3339.fullmatch(text):
        raise ProblemError(400, "invalid expires_at")
    try:
        return datetime.fromisoformat(text.upper()).timestamp()
    except (ValueError, OverflowError) as exc:
        raise ProblemError(400, "invalid expires_at") from exc


def _rotated_json(rotated: Rotated, user_id: str) -> dict[str, Any]:
    rotation = rotated.rotation
    return {
        "device_id": rotation.device_id,
        "user_id": user_id,
        "public_key": rotation.new_public_key.hex(),
        "old_public_key": rotation.old_public_key.hex(),
        "rotation_id": rotation.rotation_id,
        "event_id": rotation.key_event.event_id,
        "applied_at": rfc3339(rotation.applied_at),
        "proof_expires_at": rfc3339(rotation.proof_expires_at),
        "certificate": rotated.certificate.to_wire(),
    }
