"""A change of devices and keys whose caller is cancelled while it is on its way to the disk: what the store
has written is in the ledger, too. ``key-history`` calls a key event without its record an error."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from commucat_server.identity.certificates import CertificateIssuer
from commucat_server.identity.devices import Devices
from commucat_server.identity.pairing import ClaimRequest, Pairing, PairingPolicy
from commucat_server.identity.pairing_codes import PairingCodeHashes
from commucat_server.ops.audit import Audit
from commucat_storage import KeyEvent, Storage, open_sqlite
from server.connect_builders import AUTHORITY
from server.test_audit import MemoryLedger
from storage.storage_builders import NOW, device, new_user


@attrs.define
class Office:
    storage: Storage
    ledger: MemoryLedger
    issuer: CertificateIssuer
    devices: Devices
    pairing: Pairing

    async def cancelled(
        self, monkeypatch: pytest.MonkeyPatch, last: str, work: Callable[[], Awaitable[Any]]
    ) -> None:
        """Cancel the caller of ``work`` behind its ``last`` look into the store, before it is changed."""
        look = getattr(self.storage, last)
        with trio.CancelScope() as scope:

            async def seen(*args: Any) -> Any:
                found = await look(*args)
                scope.cancel()
                return found

            monkeypatch.setattr(self.storage, last, seen)
            await work()
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        await self.storage.settle()

    async def told_of(self, device_id: str) -> list[str]:
        """Ids of key events that are in the ledger; they are those of the store."""
        events: tuple[KeyEvent, ...] = await self.storage.key_events(device_id)
        metadata = [dict(record.metadata) for record in self.ledger.records]
        told = [each["event_id"] for each in metadata if "event_id" in each]
        assert told == [event.event_id for event in events]
        return told


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    ledger = MemoryLedger()
    audit = Audit(ledger)
    async with open_sqlite(tmp_path / "store.db") as storage:
        issuer = CertificateIssuer(AUTHORITY, storage, lambda: NOW, audit.certificate_renewed)
        await storage.admit(new_user("alice"))
        yield Office(
            storage,
            ledger,
            issuer,
            Devices(storage, issuer, audit, lambda: NOW, devices_per_user=10),
            Pairing(
                storage,
                issuer,
                PairingCodeHashes(AUTHORITY),
                PairingPolicy(domain="a.test"),
                audit,
                lambda: NOW,
            ),
        )


async def test_a_revocation_is_told(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    async def revoke() -> None:
        found = await office.storage.load_device("alice")
        assert found is not None
        await office.devices.revoke(found, "operator")

    await office.cancelled(monkeypatch, "load_device", revoke)

    assert await office.told_of("alice")


async def test_a_renewed_certificate_is_told(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    await office.cancelled(monkeypatch, "newest_certificate", lambda: office.issuer.current(device("alice")))

    assert await office.told_of("alice")


async def test_a_claimed_device_is_told(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = await office.pairing.offer(device("alice"), None)

    await office.cancelled(
        monkeypatch, "load_pairing", lambda: office.pairing.claim(ClaimRequest(code=offered.code))
    )

    [made] = [
        each.device
        for each in await office.storage.devices_of("user-alice")
        if each.device.device_id != "alice"
    ]
    assert await office.told_of(made.device_id)
