"""What the server puts into its ledger, apart from handshakes and calls, which write their own records.

Nothing here waits: a ledger in trouble keeps records, and tells of a gap where it could not. All scopes and
members stand in docs/ledger.md.
"""

from datetime import UTC, datetime
from typing import Any, Protocol, TypeAlias

import structlog
from blake3 import blake3

from commucat_crypto import DeviceCertificate
from commucat_ledger import LedgerClosedError, LedgerRecord
from commucat_storage import ChangeGroup, CreateGroup, Device, InviteMember, KeyEvent, PairingRefusal

log = structlog.get_logger("commucat.audit")

OPERATOR = "operator"
"""Who did it, if no device did."""
Entry: TypeAlias = tuple[bytes, dict[str, Any]]
"""The digest and the metadata of a record."""
MAX_NAMED = 100
"""Members of a new group that its record names: a record has a size limit."""


class RecordSink(Protocol):
    """Where records go: a ledger."""

    def offer(self, record: LedgerRecord) -> None:
        """Take a record without waiting."""


class Audit:
    """Makes records of what happened and hands them to the ledger; one per server."""

    def __init__(self, ledger: RecordSink) -> None:
        self._ledger = ledger

    def record(self, digest: bytes, metadata: dict[str, Any]) -> None:
        """Hand one record over; ``digest`` names its object in 32 bytes."""
        try:
            self._ledger.offer(LedgerRecord(digest=digest, metadata=metadata, recorded_at=datetime.now(UTC)))
        except LedgerClosedError:
            # The journal may tell of its last commits while the server goes down.
            log.error("ledger is closed, record lost", digest=digest.hex(), scope=metadata.get("scope"))

    # -- the server -----------------------------------------------------------------------------------

    def server(self, event: str, *, node: str, version: str) -> None:
        """``start`` or ``stop``: without a stop before the next start, the process was killed."""
        metadata = {"scope": "server", "event": event, "node": node, "version": version}
        self.record(blake3(f"server:{node}".encode()).digest(), metadata)

    def secret_created(self, name: str, version: int, public: bytes) -> None:
        """A version of a server secret; never the secret itself."""
        metadata = {
            "scope": "secret",
            "event": "create",
            "name": name,
            "version": version,
            "public": public.hex(),
        }
        self.record(blake3(f"{name}:{version}".encode()).digest(), metadata)

    # -- keys and devices -------------------------------------------------------------------------------

    def certificate_renewed(self, certificate: DeviceCertificate, event: KeyEvent) -> None:
        """A certificate that was made because a peer asked for one that does not run out."""
        self.record(
            certificate.public_key, key_metadata(certificate, "certificate", "renewal", event.event_id)
        )

    def device_key(
        self, certificate: DeviceCertificate, action: str, source: str, event_id: str, **more: str
    ) -> None:
        """A key of a device that came otherwise than by a handshake."""
        metadata = key_metadata(certificate, action, source, event_id) | more
        self.record(certificate.public_key, metadata)

    # -- pairing ----------------------------------------------------------------------------------------

    def pairing_created(self, device: Device, code_hash: str, expires_at: int) -> None:
        """A device offers a code. The hash has a key that only the server knows."""
        metadata = {
            "scope": "pairing",
            "event": "create",
            "device": device.device_id,
            "user": device.user_id,
            "expires_at": expires_at,
        }
        self.record(blake3(code_hash.encode()).digest(), metadata)

    def pairing_refused(self, code_hash: str, refusal: PairingRefusal, remote_addr: str) -> None:
        """Somebody came with a code that is not good, or too late."""
        metadata = {
            "scope": "pairing",
            "event": "refuse",
            "reason": refusal.value,
            "remote_addr": remote_addr,
        }
        self.record(blake3(code_hash.encode()).digest(), metadata)

    def device_paired(self, device: Device, by: str, event: str) -> None:
        """``claim``, ``wait``, ``approve`` or ``reject``; ``by`` is the device that offered the code, or who
        decided."""
        self.record(*paired_entry(device, by, event))

    def revoked_session_ended(self, device_id: str) -> None:
        """A device that is active no more lost its live session."""
        metadata = {"scope": "device", "event": "revoked", "device": device_id, "effect": "session ended"}
        self.record(blake3(device_id.encode()).digest(), metadata)

    def key_events_archived(self, events: int, archive: str, content: bytes) -> None:
        """Key events that were moved from the store to a file; ``content`` is what was appended to it."""
        metadata = {"scope": "key-events", "event": "archive", "events": events, "archive": archive}
        self.record(blake3(content).digest(), metadata)

    # -- groups -----------------------------------------------------------------------------------------

    def group_changed(self, operation: CreateGroup | InviteMember | ChangeGroup) -> None:
        """A change of a group that is committed."""
        metadata: dict[str, Any] = {
            "scope": "group",
            "group_id": operation.group_id,
            "channel_id": operation.channel,
            "by": operation.sender,
        }
        match operation:
            case CreateGroup():
                metadata["event"] = "create"
                metadata["member_count"] = len({operation.sender, *(member for member, _ in operation.roles)})
                metadata["members"] = {member: role.value for member, role in operation.roles[:MAX_NAMED]}
            case InviteMember():
                metadata |= {"event": "invite", "device": operation.device_id, "role": operation.role.value}
            case ChangeGroup():
                metadata |= {"event": operation.action.value, "device": operation.device_id}
                if operation.role is not None:
                    metadata["role"] = operation.role.value
        self.record(blake3(operation.group_id.encode()).digest(), metadata)


def paired_entry(device: Device, by: str, event: str) -> Entry:
    """What became of a pairing: ``claim``, ``wait``, ``approve`` or ``reject``."""
    metadata = {
        "scope": "pairing",
        "event": event,
        "device": device.device_id,
        "user": device.user_id,
        "by": by,
    }
    return blake3(device.device_id.encode()).digest(), metadata


def revoked_entry(device: Device, by: str, event_id: str) -> Entry:
    """A device was ended for good; ``by``: a device of the same user, or ``operator``."""
    metadata = {
        "scope": "device",
        "event": "revoke",
        "device": device.device_id,
        "user": device.user_id,
        "action": "revoke",
        "source": by if by == OPERATOR else "device",
        "by": by,
        "event_id": event_id,
    }
    return device.public_key, metadata


def key_entry(certificate: DeviceCertificate, action: str, source: str, event_id: str) -> Entry:
    """A key of a device that came otherwise than by a handshake."""
    return certificate.public_key, key_metadata(certificate, action, source, event_id)


def key_metadata(
    certificate: DeviceCertificate, action: str, source: str, event_id: str | None
) -> dict[str, Any]:
    """Members of a record about a device's key: ``register``, ``rotate`` or ``certificate``."""
    metadata: dict[str, Any] = {
        "device": certificate.device_id,
        "user": certificate.user_id,
        "action": action,
        "source": source,
        "certificate_serial": certificate.serial,
        "certificate_issued_at": certificate.issued_at,
        "certificate_expires_at": certificate.expires_at,
    }
    if event_id is not None:
        metadata["event_id"] = event_id
    return metadata
