"""Pairing codes: a device offers one, a new device claims it."""

import secrets
from typing import Any

from litestar import Response, post

from commucat_server.api.answers import ApiRequest, Handlers, json_answer
from commucat_server.api.authentication import authenticate
from commucat_server.api.bodies import hex_of, integer_of, read_object, text_of
from commucat_server.api.context import ApiContext
from commucat_server.api.openapi import Body, documented
from commucat_server.api.problems import ProblemError, too_many_requests
from commucat_server.api.schemas import (
    DEVICE_ID,
    KEY,
    constant,
    hexadecimal,
    integer,
    nullable,
    record,
    ref,
    text,
    time,
)
from commucat_server.identity.admissions import user_json
from commucat_server.identity.pairing import DEVICE_ID as DEVICE_ID_FORM
from commucat_server.identity.pairing import Claimed, ClaimProofError, ClaimRequest
from commucat_server.identity.pairing_codes import canonical_code
from commucat_server.ops.times import rfc3339
from commucat_server.security.rate import identity_of
from commucat_storage import PairingRefusal, PairingRefusedError

MAX_NAME_LEN = 64
NOBODY = ""
"""The identity under which failures of all addresses count together."""
_INVALID_CODE = "pairing code invalid or expired"

OFFER = record(
    {
        "pair_code": text("XXXX-XXXX.", pattern="^[A-HJKMNP-Z2-9]{4}-[A-HJKMNP-Z2-9]{4}$"),
        "issued_at": time(),
        "expires_at": time(),
        "ttl": integer("Seconds."),
        "device_seed": hexadecimal(32, "Random and of no use; the terminal client of 2025 wants it."),
        "issuer_device_id": DEVICE_ID,
        "device_ca_public": KEY,
    }
)
CLAIM = record(
    {
        "pair_code": text("In either case; blanks and dashes do not matter."),
        "device_name": nullable(text(f"At most {MAX_NAME_LEN} printable characters.")),
        "device_id": nullable(text("The id that the device has chosen.", pattern="^[A-Za-z0-9._-]{1,128}$")),
        "public_key": nullable(hexadecimal(32, "The device's own Ed25519 key.")),
        "proof": nullable(hexadecimal(64, "Ed25519 by that key; see docs/protocol.md. Needed with it.")),
    },
    optional=["device_name", "device_id", "public_key", "proof"],
)
CLAIMED = record(
    {
        "status": constant("active", "pending"),
        "device_id": DEVICE_ID,
        "public_key": KEY,
        "private_key": hexadecimal(32, "Only if the server made the key."),
        "seed": hexadecimal(32, "Likewise: the private key is BLAKE3 of it."),
        "issuer_device_id": DEVICE_ID,
        "user_id": text(),
        "user": ref("User"),
        "device_certificate": ref("Certificate"),
        "device_ca_public": KEY,
        "device_name": text(),
    },
    optional=["private_key", "seed", "device_certificate", "device_name"],
    description="Without device_certificate while the device waits for approval.",
)


def handlers(context: ApiContext) -> Handlers:
    """``/api/pair`` and below; ``/api/pairing`` is the same."""

    @post(
        ["/api/pair", "/api/pairing"],
        status_code=200,
        opt=documented(
            "Offer a pairing code",
            tag="pairing",
            description="The code lets one more device into the caller's account, once.",
            session=True,
            body=Body(
                schema=record(
                    {"ttl": nullable(integer("Seconds; at most what the server allows.", minimum=1))},
                    optional=["ttl"],
                ),
                required=False,
            ),
            ok={200: OFFER},
            problems={409: "The device has too many codes open."},
        ),
    )
    async def offer(request: ApiRequest) -> Response[dict[str, Any]]:
        caller = await authenticate(request, context)
        ttl = integer_of(await caller.gave(read_object(request)), "ttl")
        if ttl is not None and ttl <= 0:
            raise ProblemError(400, "ttl must be positive")
        try:
            offered = await context.pairing.offer(caller.device, ttl)
        except PairingRefusedError as exc:
            if exc.refusal is PairingRefusal.CODE_LIMIT:
                raise ProblemError(409, "too many open pairing codes") from exc
            raise ProblemError(403) from exc
        return json_answer(
            {
                "pair_code": offered.code,
                "issued_at": rfc3339(offered.issued_at),
                "expires_at": rfc3339(offered.expires_at),
                "ttl": offered.expires_at - offered.issued_at,
                "device_seed": secrets.token_hex(32),
                "issuer_device_id": caller.device.device_id,
                "device_ca_public": context.issuer.public_key.hex(),
            }
        )

    @post(
        ["/api/pair/claim", "/api/pairing/claim"],
        status_code=200,
        opt=documented(
            "Claim a pairing code",
            tag="pairing",
            description="Makes a device of the user who offered the code. The same device may claim again if "
            "it did not get the answer.",
            store=True,
            body=CLAIM,
            ok={200: CLAIMED},
            problems={
                400: "The body or the proof is wrong, or the code has expired or was used.",
                404: "There is no such code.",
                409: "The device id is taken, or the user has too many devices.",
                429: "Too many claims have failed, or this address has brought too many devices.",
            },
        ),
    )
    async def claim(request: ApiRequest) -> Response[dict[str, Any]]:
        address = request.client.host if request.client is not None else ""
        asked = _claim_of(await read_object(request), address)
        identity = identity_of(address)
        wait = await context.new_device_limit.take(identity)
        if wait == 0.0 and (wait := await context.claim_failures.take(NOBODY)) > 0.0:
            context.new_device_limit.give_back(identity)
        if wait > 0.0:
            context.counters.pairing_limited += 1
            raise too_many_requests(wait)
        guessed = made = False
        try:
            claimed = await context.pairing.claim(asked)
            made = not claimed.repeated
        except ClaimProofError as exc:
            raise ProblemError(400, str(exc)) from exc
        except PairingRefusedError as exc:
            guessed = exc.refusal in (PairingRefusal.UNKNOWN, PairingRefusal.INVALID)
            raise _refused(exc.refusal) from exc
        finally:
            # Only what may have been a guess counts against everybody.
            if not guessed:
                context.claim_failures.give_back(NOBODY)
            # Devices are rows for ever, revoked or not: an account must not make any number of them.
            if not made:
                context.new_device_limit.give_back(identity)
        return json_answer(_claimed_json(claimed, asked.name, context.issuer.public_key))

    return [offer, claim]


def _claim_of(value: dict[str, Any], address: str) -> ClaimRequest:
    typed = (text_of(value, "pair_code") or "").strip()
    if not typed:
        raise ProblemError(400, "pair_code is required")
    name = text_of(value, "device_name")
    if name is not None and (len(name) > MAX_NAME_LEN or not name.isprintable()):
        raise ProblemError(400, f"device_name must be at most {MAX_NAME_LEN} printable characters")
    device_id = text_of(value, "device_id")
    public_key = hex_of(value, "public_key", 32, "invalid public_key")
    proof = hex_of(value, "proof", 64, "invalid proof encoding")
    if device_id is not None and not DEVICE_ID_FORM.fullmatch(device_id):
        raise ProblemError(400, "invalid device_id")
    if public_key is None and (proof is not None or device_id is not None):
        raise ProblemError(400, "public_key is required")
    if public_key is not None and proof is None:
        raise ProblemError(400, "proof is required")
    return ClaimRequest(
        # What cannot be a code is none that anybody has: it takes the same way as a wrong one.
        code=canonical_code(typed) or typed[:MAX_NAME_LEN],
        name=name,
        device_id=device_id,
        public_key=public_key,
        proof=proof,
        remote_addr=address,
    )


def _refused(refusal: PairingRefusal) -> ProblemError:
    match refusal:
        case PairingRefusal.UNKNOWN:
            return ProblemError(404)
        case PairingRefusal.DEVICE_TAKEN:
            return ProblemError(409, "device_id is taken")
        case PairingRefusal.DEVICE_LIMIT:
            return ProblemError(409, "the user has too many devices")
        case _:
            return ProblemError(400, _INVALID_CODE)


def _claimed_json(claimed: Claimed, name: str | None, authority: bytes) -> dict[str, Any]:
    document: dict[str, Any] = {
        "status": "pending" if claimed.certificate is None else "active",
        "device_id": claimed.device.device_id,
        "public_key": claimed.device.public_key.hex(),
        "issuer_device_id": claimed.issuer_device_id,
        "user_id": claimed.user.user_id,
        "user": user_json(claimed.user),
        "device_ca_public": authority.hex(),
    }
    if claimed.certificate is not None:
        document["device_certificate"] = claimed.certificate.to_wire()
    if claimed.seed is not None:
        from_seed = claimed.private_key
        assert from_seed is not None
        document |= {"seed": claimed.seed.hex(), "private_key": from_seed.hex()}
    if name is not None:
        document["device_name"] = name
    return document
