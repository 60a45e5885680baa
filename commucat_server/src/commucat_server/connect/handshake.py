"""The handshake of one stream: machine, admission and audit, under one deadline."""

import time
from datetime import UTC, datetime
from typing import Any

import attrs
import structlog
import trio
from blake3 import blake3

from commucat_ledger import LedgerRecord
from commucat_proto import (
    CALL_MEDIA,
    DELIVERY_ACK,
    DELIVERY_STATUS,
    SELF_COPY,
    SEND_ONLY,
    ClientProved,
    HandshakeDetail,
    HandshakeFailed,
    HandshakeRefusedError,
    Hello,
    HelloReceived,
    PeerClosed,
    Resume,
    ServerSession,
)
from commucat_server.connect.context import ConnectContext
from commucat_server.identity.admissions import Candidate, Entrance, user_json
from commucat_server.listener import ConnectStream, Step
from commucat_server.ops.audit import key_metadata
from commucat_server.ops.counters import count
from commucat_server.routing.registry import Arrival
from commucat_server.security.rate import identity_of
from commucat_storage import StorageError

log = structlog.get_logger("commucat.connect")


@attrs.frozen(kw_only=True)
class Welcome:
    """A finished handshake: everything that the session needs to begin."""

    hello: Hello
    entrance: Entrance
    arrival: Arrival
    """To be ended when the session is attached."""
    token: str = attrs.field(repr=False)
    token_hash: str
    bound: bool
    """The client itself vouched for the whole Hello, see :class:`ClientProved`."""

    @property
    def resume(self) -> Resume | None:
        """Where the client says it stands. Only its own word counts: a forged number would
        delete what it has not got; without one it costs a redelivery."""
        return self.hello.resume if self.bound else None

    @property
    def receives(self) -> bool:
        return SEND_ONLY not in self.hello.capabilities

    @property
    def delivery_ack(self) -> bool:
        return DELIVERY_ACK in self.hello.capabilities


class Handshake:
    """Leads one :class:`ServerSession` from its first byte to an admitted device."""

    def __init__(self, context: ConnectContext, stream: ConnectStream, session: ServerSession) -> None:
        self._context = context
        self._stream = stream
        self._session = session
        self._hello: Hello | None = None
        self._candidate: Candidate | None = None
        self._stage = "hello"
        timeout = context.settings.handshake_timeout
        self._deadline = trio.CancelScope(deadline=trio.current_time() + timeout)

    async def run(self) -> Welcome | None:
        """The welcome, or None when the handshake failed (its peer has been told why)."""
        failure: HandshakeFailed | PeerClosed | None = None
        with self._deadline as deadline:
            try:
                outcome = await self._converse()
            except HandshakeRefusedError as exc:
                # Only a proved device gets this far with PAIRING, so it may know the reason.
                extra = {"reason": exc.reason} if exc.detail is HandshakeDetail.PAIRING else {}
                failure = self._refusal(exc.detail, exc.reason, extra, told=exc.told)
            except StorageError as exc:
                failure = self._refusal(HandshakeDetail.STORAGE, str(exc), {"retry": True})
            else:
                if isinstance(outcome, Welcome):
                    return outcome
                failure = outcome
        if deadline.cancelled_caught:
            late = "the store or the ledger does not answer" if deadline.shield else "deadline"
            failure = self._refusal(HandshakeDetail.TIMEOUT, late)
        if isinstance(failure, HandshakeFailed):
            await self._fail(failure)
        else:
            await self._record_failure("client-closed", {"error": "client_closed", "source": "body"})
        return None

    def _refusal(
        self,
        detail: HandshakeDetail,
        reason: str,
        extra: dict[str, Any] | None = None,
        *,
        told: str | None = None,
    ) -> HandshakeFailed:
        return HandshakeFailed(detail, reason, self._session.refuse(detail, told=told, **(extra or {})))

    async def _converse(self) -> Welcome | HandshakeFailed | PeerClosed:
        while True:
            data = await self._stream.receive()
            step = Step.HELLO if self._hello is None else Step.PROOF
            await self._context.turnstile.turn(step, self._deadline)
            events = self._session.receive_data(data)
            while events:
                match events.pop(0):
                    case HelloReceived(hello, _):
                        await self._answer_hello(hello)
                        events += self._session.pending_events()
                    case ClientProved() as proved:
                        return await self._admit(proved)
                    case HandshakeFailed() | PeerClosed() as end:
                        return end

    async def _answer_hello(self, hello: Hello) -> None:
        self._hello = hello
        self._candidate = await self._context.admissions.look_up(hello)
        user = self._candidate.user
        auth = self._session.send_auth(
            session=self._candidate.token, user_id=user.user_id, user=user_json(user)
        )
        self._stage = "await_client"
        if not self._stream.send_now(auth):
            await self._stream.send(auth)

    async def _admit(self, proved: ClientProved) -> Welcome:
        assert self._candidate is not None
        hello = proved.hello
        self._stage = "admission"
        if self._candidate.device is None:
            wait = await self._context.new_user_limit.take(identity_of(self._stream.remote_host))
            if wait > 0.0:
                raise HandshakeRefusedError(HandshakeDetail.PAIRING, "too many new devices from this address")
        await trio.lowlevel.checkpoint_if_cancelled()
        # What the store has written must be recorded and told: neither the time that is left of the handshake
        # nor the end of the connection may come between. A store that hangs still ends it.
        self._deadline.shield = True
        self._deadline.deadline = trio.current_time() + self._context.settings.handshake_timeout
        arrival = self._context.registry.expect(hello.device_id)
        try:
            entrance = await self._context.admissions.admit(hello, self._candidate, proved.code)
            await self._record_success(hello, entrance)
        except BaseException:
            arrival.end()
            raise
        return Welcome(
            hello=hello,
            entrance=entrance,
            arrival=arrival,
            token=self._candidate.token,
            token_hash=self._candidate.token_hash,
            bound=proved.bound,
        )

    # -- telling and recording ------------------------------------------------------------------

    async def _fail(self, failure: HandshakeFailed) -> None:
        self._context.counters.handshakes_failed += 1
        count(self._context.counters.handshake_refusals, failure.detail.value)
        kind = "decode" if failure.undecodable else "handshake"
        told = failure.reason if failure.undecodable else failure.detail.value
        try:
            # The client first: a ledger whose disk stalls must not keep it waiting.
            with trio.move_on_after(self._context.settings.drain_timeout):
                await self._stream.send(failure.reply)
                await self._stream.end()
        finally:
            await self._record_failure(kind, {"error": kind, "detail": told}, cause=failure.reason)

    async def _record_failure(self, reason: str, detail: dict[str, Any], cause: str = "") -> None:
        hello, candidate = self._hello, self._candidate
        device = hello.device_id if hello else ""
        remote = f"{self._stream.remote_host}:{self._stream.remote_port}"
        metadata: dict[str, Any] = {
            "scope": "handshake",
            "result": "failure",
            "stage": self._stage,
            "reason": reason,
            "detail": detail,
            "device_known": candidate is not None and candidate.device is not None,
            "noise_key_active": bool(self._context.noise_keys.versions),
            "has_user_profile": hello is not None and bool(hello.user.to_wire()),
            "has_certificate": hello is not None and hello.certificate is not None,
            "session_known": candidate is not None,
            "remote_addr": remote,
        }
        if cause:
            metadata["cause"] = cause
        if hello is not None:
            metadata["device"] = device
            metadata["protocol_version"] = hello.version
        log.debug(
            "handshake failure", stage=self._stage, reason=reason, cause=cause, device=device, remote=remote
        )
        digest = blake3(f"handshake-failure:{reason}:{device}::{remote}:{time.time_ns()}".encode()).digest()
        await self._record(digest, metadata)

    async def _record(self, digest: bytes, metadata: dict[str, Any]) -> None:
        record = LedgerRecord(digest=digest, metadata=metadata, recorded_at=datetime.now(UTC))
        await self._context.ledger.append(record)

    async def _record_success(self, hello: Hello, entrance: Entrance) -> None:
        certificate = entrance.certificate
        device, user = certificate.device_id, certificate.user_id
        if entrance.action is not None:
            metadata = key_metadata(certificate, entrance.action, "certificate", entrance.event_id)
            log.debug("device_key_event", **metadata)
            await self._record(certificate.public_key, metadata)
        assert self._candidate is not None
        session = self._candidate.token_hash
        established = {
            "device": device,
            "user": user,
            "scope": "handshake",
            "result": "success",
            "stage": "established",
            "protocol_version": hello.version,
            "noise_key_version": self._session.key.version,
            "pattern": hello.pattern.value,
            "device_known": self._candidate.device is not None,
            "certificate_serial": certificate.serial,
            "remote_addr": f"{self._stream.remote_host}:{self._stream.remote_port}",
            "session": session,
        }
        await self._record(bytes.fromhex(session), established)


def ack_json(
    context: ConnectContext, session: ServerSession, welcome: Welcome, confirmed: int, *, brief: bool = False
) -> dict[str, Any]:
    """The final Ack: everything a client may need to know to begin.

    ``confirmed`` is the inbox's watermark, after the client's resume was applied. ``brief``: of the Noise
    keys only the newest, for a client that can be sent little.
    """
    entrance = welcome.entrance
    certificate = entrance.certificate
    inbox = entrance.admitted.inbox
    keys = context.noise_keys.entries()
    signed = None if brief else context.ledger.head
    used = context.noise_keys.note_use(session.key.version)
    user = user_json(entrance.admitted.user)
    return {
        "session": welcome.token,
        "user_id": user["user_id"],
        "user": user,
        "pairing_required": not context.admissions.joins_by_handle,
        "device_ca_public": context.issuer.public_key.hex(),
        "noise_public": used["public"],
        "keepalive_interval": keepalive_interval(context.settings.keepalive),
        "noise_key_version": used["version"],
        "noise_rotates_at": used["rotates_at"],
        "noise_expires_at": used["expires_at"],
        "noise_keys": [without_signature(keys[0])] if brief else keys,
        "certificate": {
            "serial": certificate.serial,
            "issued_at": certificate.issued_at,
            "expires_at": certificate.expires_at,
        },
        "device_certificate": certificate.to_wire(),
        "capabilities": capabilities(context),
        "inbox": {"epoch": inbox.epoch, "next": inbox.next_number, "confirmed": confirmed},
        **({} if signed is None else {"ledger": signed.to_wire()}),
    }


def without_signature(entry: dict[str, Any]) -> dict[str, Any]:
    """For a client that can be sent little and would not look at it."""
    return {name: value for name, value in entry.items() if name != "signature"}


def capabilities(context: ConnectContext) -> list[str]:
    """What a client may ask for in its Hello."""
    status = [DELIVERY_STATUS] if context.settings.delivery_status else []
    return [CALL_MEDIA, DELIVERY_ACK, *status, SELF_COPY, SEND_ONLY]


def keepalive_interval(keepalive: int) -> int:
    """Seconds between keep-alives; at most 30, whatever the session's lifetime."""
    return min(30, max(5, max(1, keepalive // 2)))
