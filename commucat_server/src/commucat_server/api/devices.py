"""The devices of an account, and what others may know of them."""

from typing import Any

from litestar import Response, get, post
from litestar.params import FromPath

from commucat_server.api.answers import ApiRequest, Handlers, json_answer
from commucat_server.api.authentication import Caller, authenticate
from commucat_server.api.bodies import read_object, text_of
from commucat_server.api.context import ApiContext
from commucat_server.api.openapi import documented
from commucat_server.api.paths import segment_of
from commucat_server.api.problems import ProblemError
from commucat_server.api.questions import question_problem
from commucat_server.api.schemas import (
    DEVICE_ID,
    KEY,
    array,
    boolean,
    constant,
    hexadecimal,
    integer,
    record,
    ref,
    text,
    time,
)
from commucat_server.federation.addresses import local_name
from commucat_server.federation.queries import PeerQuestionError
from commucat_server.federation.service import Federation
from commucat_server.identity.key_history import KeyHistory
from commucat_server.ops.times import rfc3339
from commucat_server.routing.registry import REVOKED
from commucat_storage import (
    Device,
    DeviceStatus,
    NamedDevice,
    PairingRefusal,
    PairingRefusedError,
    PendingDevice,
)

_BAD_ID = {400: "The device id is not percent-encoded UTF-8."}
DEVICE = record(
    {
        "device_id": DEVICE_ID,
        "status": constant("active", "revoked", "diagnostic", "pending"),
        "created_at": time(),
        "public_key": KEY,
        "current": boolean("Whether it is the calling device."),
        "device_name": text(),
        "issuer_device_id": text("Of a device that waits: whose code it claimed."),
        "expires_at": time("Of a device that waits: until when."),
    },
    optional=["device_name", "issuer_device_id", "expires_at"],
)
NAMED = record({"device_id": text("Of the caller's user.")})
DONE = record({"device_id": DEVICE_ID, "status": constant("active", "revoked", "rejected")})
HISTORY = record(
    {
        "device_id": DEVICE_ID,
        "events": array(
            record(
                {
                    "event_id": text(),
                    "public_key": KEY,
                    "recorded_at": integer("Unix seconds."),
                    "link": hexadecimal(32, "Over the link before it and the event; see docs/ledger.md."),
                }
            ),
            "The oldest first.",
        ),
        "head": record(
            {
                "events": integer("How many there are."),
                "link": hexadecimal(32, "Of the last one."),
                "signed_at": integer("Unix seconds."),
                "key": KEY,
                "signature": hexadecimal(64, "Ed25519 by the server; see docs/protocol.md."),
            }
        ),
    }
)


def handlers(context: ApiContext) -> Handlers:
    """Below ``/api/devices``."""

    @get(
        "/api/devices",
        opt=documented(
            "The devices of the caller's user",
            tag="devices",
            description="The oldest first; behind them those that have claimed a code and wait for approval.",
            session=True,
            ok={200: record({"devices": array(DEVICE)})},
        ),
    )
    async def list_devices(request: ApiRequest) -> Response[dict[str, Any]]:
        caller = await authenticate(request, context)
        own = caller.device.device_id
        devices = await context.storage.devices_of(caller.user.user_id)
        pending = await context.storage.pending_devices(caller.user.user_id)
        listed = [_device_json(each, own) for each in devices]
        return json_answer({"devices": listed + [_pending_json(each) for each in pending]})

    @post(
        "/api/devices/revoke",
        status_code=200,
        opt=documented(
            "Revoke another device of the caller's user",
            tag="devices",
            description="For good: its session ends within a second, its certificates, tokens and waiting "
            "messages are gone.",
            session=True,
            body=NAMED,
            ok={200: DONE},
            problems={
                400: "device_id is missing.",
                403: "It is a device of somebody else, or the caller is not active.",
                404: "There is no such device.",
                409: "It is the calling device.",
            },
        ),
    )
    async def revoke(request: ApiRequest) -> Response[dict[str, Any]]:
        caller = await authenticate(request, context)
        device_id = await _named(request, caller)
        if device_id == caller.device.device_id:
            raise ProblemError(409, "cannot revoke active session device")
        device = await context.storage.load_device(device_id)
        if device is None:
            raise ProblemError(404, "device not found")
        if device.user_id != caller.user.user_id:
            raise ProblemError(403)
        if await context.devices.revoke(device, caller.device.device_id):
            context.registry.end_device(device_id, REVOKED)
            context.purge_soon()
        return json_answer({"device_id": device_id, "status": DeviceStatus.REVOKED.value})

    @post(
        "/api/devices/approve",
        status_code=200,
        opt=documented(
            "Let a device in that waits",
            tag="devices",
            session=True,
            body=NAMED,
            ok={200: DONE},
            problems={
                400: "device_id is missing.",
                404: "No such device of the caller's user waits.",
                409: "The user has too many devices, or the id is taken meanwhile.",
            },
        ),
    )
    async def approve(request: ApiRequest) -> Response[dict[str, Any]]:
        caller = await authenticate(request, context)
        pending = await _waiting(request, caller)
        try:
            device = await context.devices.approve(pending, caller.device.device_id)
        except PairingRefusedError as exc:
            raise _refused(exc.refusal) from exc
        return json_answer({"device_id": device.device_id, "status": device.status.value})

    @post(
        "/api/devices/reject",
        status_code=200,
        opt=documented(
            "Turn a device away that waits",
            tag="devices",
            session=True,
            body=NAMED,
            ok={200: DONE},
            problems={400: "device_id is missing.", 404: "No such device of the caller's user waits."},
        ),
    )
    async def reject(request: ApiRequest) -> Response[dict[str, Any]]:
        caller = await authenticate(request, context)
        pending = await _waiting(request, caller)
        try:
            await context.devices.reject(pending, caller.device.device_id)
        except PairingRefusedError as exc:
            raise _refused(exc.refusal) from exc
        return json_answer({"device_id": pending.device_id, "status": "rejected"})

    @get(
        "/api/devices/{device_id:str}/certificate",
        opt=documented(
            "The certificate that a sender needs to seal to a device",
            tag="devices",
            session=True,
            description="A device of another server is named `device@domain`; its server is asked.",
            ok={
                200: record(
                    {
                        "certificate": ref("Certificate"),
                        "authority": {**KEY, "description": "Of another server: the key that signed it."},
                    },
                    optional=["authority"],
                )
            },
            problems={
                **_BAD_ID,
                404: "There is no such device, it is not active, or its domain is not known.",
                503: "The other server cannot be asked now.",
            },
        ),
    )
    async def device_certificate(request: ApiRequest, device_id: FromPath[str]) -> Response[dict[str, Any]]:
        await authenticate(request, context)
        device_id = local_name(segment_of(request, 2, "device id"), context.policy.domain)
        if "@" in device_id and context.federation is not None:
            return await certificate_afar(context.federation, device_id)
        device = await context.storage.load_device(device_id)
        certificate = None if device is None else await context.issuer.current(device)
        if certificate is None:
            # A revoked device is nobody to write to; peers need not tell it from no device.
            raise ProblemError(404, "device not found")
        return json_answer({"certificate": certificate.to_wire()})

    async def certificate_afar(federation: Federation, address: str) -> Response[dict[str, Any]]:
        try:
            certificate, authority = await federation.questions.certificate(address)
        except PeerQuestionError as exc:
            raise question_problem(exc) from exc
        return json_answer({"certificate": certificate.to_wire(), "authority": authority.hex()})

    @get(
        "/api/devices/{device_id:str}/key-events",
        opt=documented(
            "What has happened to the keys of a device of the caller's user",
            tag="devices",
            session=True,
            ok={200: HISTORY},
            problems={**_BAD_ID, 404: "The caller's user has no such device."},
        ),
    )
    async def key_events(request: ApiRequest, device_id: FromPath[str]) -> Response[dict[str, Any]]:
        caller = await authenticate(request, context)
        device = await context.storage.load_device(segment_of(request, 2, "device id"))
        if device is None or device.user_id != caller.user.user_id:
            raise ProblemError(404, "device not found")
        history = await context.key_histories.of(device.device_id)
        return json_answer(_history_json(device, history))

    async def _named(request: ApiRequest, caller: Caller) -> str:
        device_id = text_of(await caller.gave(read_object(request)), "device_id")
        if not device_id:
            raise ProblemError(400, "device_id is required")
        return device_id

    async def _waiting(request: ApiRequest, caller: Caller) -> PendingDevice:
        pending = await context.devices.pending(caller.user.user_id, await _named(request, caller))
        if pending is None:
            raise ProblemError(404, "device not found")
        return pending

    return [list_devices, revoke, approve, reject, device_certificate, key_events]


def _refused(refusal: PairingRefusal) -> ProblemError:
    match refusal:
        case PairingRefusal.DEVICE_TAKEN:
            return ProblemError(409, "device_id is taken")
        case PairingRefusal.DEVICE_LIMIT:
            return ProblemError(409, "the user has too many devices")
        case _:
            return ProblemError(404, "device not found")


def _device_json(named: NamedDevice, own: str) -> dict[str, Any]:
    device = named.device
    document = {
        "device_id": device.device_id,
        "status": device.status.value,
        "created_at": rfc3339(device.created_at),
        "public_key": device.public_key.hex(),
        "current": device.device_id == own,
    }
    return document if named.name is None else document | {"device_name": named.name}


def _pending_json(pending: PendingDevice) -> dict[str, Any]:
    document = {
        "device_id": pending.device_id,
        "status": "pending",
        "created_at": rfc3339(pending.requested_at),
        "public_key": pending.public_key.hex(),
        "current": False,
        "issuer_device_id": pending.issuer_device_id,
        "expires_at": rfc3339(pending.expires_at),
    }
    return document if pending.name is None else document | {"device_name": pending.name}


def _history_json(device: Device, history: KeyHistory) -> dict[str, Any]:
    return {
        "device_id": device.device_id,
        "events": [
            {
                "event_id": event.event_id,
                "public_key": event.public_key.hex(),
                "recorded_at": event.recorded_at,
                "link": link.hex(),
            }
            for event, link in history.events
        ],
        "head": {
            "events": len(history.events),
            "link": history.link.hex(),
            "signed_at": history.signed_at,
            "key": history.key.hex(),
            "signature": history.signature.hex(),
        },
    }
