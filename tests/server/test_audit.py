"""What the ledger learns beside handshakes and calls."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from blake3 import blake3

from commucat_ledger import Ledger, LedgerRecord, SignedHead, Signer, open_ledger
from commucat_proto import FrameType
from commucat_server.connect.handler import ConnectHandler
from commucat_server.identity.certificates import CertificateIssuer
from commucat_server.ops.audit import Audit
from commucat_server.ops.delivery_audit import ENTRIES, MAX_GATHERED, DeliveryAudit
from commucat_server.ops.key_event_archive import KeyEventArchive
from commucat_server.ops.upkeep import Upkeep
from commucat_storage import Confirm, ConfirmOutcome, KeyEvent, Submission, SubmissionOutcome
from commucat_storage.key_archive import read_archive
from server.connect_builders import AUTHORITY, NOW, Person, Server, running_server
from server.test_groups_frames import ALICE, BOB, CAROL, DAVE, GROUP, ask, event, group_of


class MemoryLedger(Ledger):
    """Keeps records in memory."""

    def __init__(self) -> None:
        self.records: list[LedgerRecord] = []
        self.signed: SignedHead | None = None

    @property
    def written(self) -> int:
        return len(self.records)

    @property
    def failures(self) -> int:
        return 0

    @property
    def head(self) -> SignedHead | None:
        return self.signed

    async def append(self, record: LedgerRecord) -> None:
        await trio.lowlevel.checkpoint()
        self.offer(record)

    def offer(self, record: LedgerRecord) -> None:
        self.records.append(record)

    def of(self, scope: str) -> list[dict[str, Any]]:
        return [dict(record.metadata) for record in self.records if record.metadata.get("scope") == scope]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with running_server(tmp_path) as server:
        yield server


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


async def test_every_change_of_a_group_is_recorded_and_a_refused_one_is_not(
    server: Server, ledger: MemoryLedger
) -> None:
    server.context.inbox.on_group_change = Audit(ledger).group_changed
    clients = await group_of(server, bob="admin", carol="member")
    await server.connect(DAVE)
    alice = clients["alice"]
    await ask(clients["bob"], FrameType.GROUP_INVITE, {"group_id": GROUP, "device": DAVE.device_id})
    await event(alice, "role", device=CAROL.device_id, role="admin")
    assert "error" in await event(clients["carol"], "remove", device=ALICE.device_id)
    await event(alice, "remove", device=DAVE.device_id)
    await event(clients["carol"], "leave")

    common = {"scope": "group", "group_id": GROUP, "channel_id": 9}
    assert ledger.of("group") == [
        {
            **common,
            "event": "create",
            "by": ALICE.device_id,
            "member_count": 3,
            "members": {BOB.device_id: "admin", CAROL.device_id: "member"},
        },
        {**common, "event": "invite", "by": BOB.device_id, "device": DAVE.device_id, "role": "member"},
        {**common, "event": "role", "by": ALICE.device_id, "device": CAROL.device_id, "role": "admin"},
        {**common, "event": "remove", "by": ALICE.device_id, "device": DAVE.device_id},
        {**common, "event": "leave", "by": CAROL.device_id, "device": CAROL.device_id},
    ]
    assert {record.digest for record in ledger.records} == {blake3(GROUP.encode()).digest()}


async def test_a_certificate_renewed_for_a_peer_leaves_a_key_event_and_a_record(
    server: Server, ledger: MemoryLedger
) -> None:
    await server.connect(ALICE)
    device = await server.storage.load_device(ALICE.device_id)
    assert device is not None
    later = NOW + 25 * 86_400
    issuer = CertificateIssuer(AUTHORITY, server.storage, lambda: later, Audit(ledger).certificate_renewed)

    fresh = await issuer.current(device)

    [_, newest] = await server.storage.key_events(ALICE.device_id)
    [record] = ledger.records
    assert record.digest == device.public_key
    assert record.metadata == {
        "device": ALICE.device_id,
        "user": device.user_id,
        "action": "certificate",
        "source": "renewal",
        "certificate_serial": fresh.serial,
        "certificate_issued_at": later,
        "certificate_expires_at": fresh.expires_at,
        "event_id": newest.event_id,
    }
    assert (await issuer.current(device)).serial == fresh.serial
    assert len(ledger.records) == 1


async def test_the_record_of_a_handshake_names_its_key_event(server: Server, ledger: MemoryLedger) -> None:
    context = attrs.evolve(server.context, ledger=ledger)
    await attrs.evolve(server, context=context, handler=ConnectHandler(context)).connect(ALICE)
    [stored] = await server.storage.key_events(ALICE.device_id)
    assert ledger.records[0].metadata["event_id"] == stored.event_id


async def test_the_ack_tells_the_newest_signed_head(server: Server, ledger: MemoryLedger) -> None:
    context = attrs.evolve(server.context, ledger=ledger)
    server = attrs.evolve(server, context=context, handler=ConnectHandler(context))
    assert "ledger" not in (await server.connect(ALICE)).ack
    ledger.signed = SignedHead.make(
        Signer(key=AUTHORITY.public, sign=AUTHORITY.sign),
        ledger=bytes(32),
        size=3,
        head=bytes(32),
        signed_at=NOW,
        node="main",
    )
    told = (await server.connect(Person(handle="erin"))).ack["ledger"]
    assert SignedHead.from_wire(told) == ledger.signed


async def test_a_revoked_device_is_recorded_once(server: Server, ledger: MemoryLedger) -> None:
    await server.connect(ALICE)
    context = server.context
    upkeep = Upkeep(
        storage=server.storage,
        registry=context.registry,
        presence=context.presence,
        reports=server.reports,
        counters=context.counters,
        clock=context.clock,
        presence_ttl=30,
        keepalive=3600,
        revoked=Audit(ledger).revoked_session_ended,
    )
    await upkeep.end_revoked()
    assert ledger.records == []
    await server.storage.revoke_device(ALICE.device_id, NOW)
    await upkeep.end_revoked()
    await upkeep.end_revoked()
    assert ledger.of("device") == [
        {"scope": "device", "event": "revoked", "device": ALICE.device_id, "effect": "session ended"}
    ]


# -- deliveries --------------------------------------------------------------------------------------


def message(payload: bytes = b"sealed") -> Submission:
    return Submission("a", 7, FrameType.MSG, payload, NOW + 9)


async def test_deliveries_of_a_moment_share_a_record(
    ledger: MemoryLedger, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    audit = DeliveryAudit(Audit(ledger), lambda device_id: device_id == "b")
    nursery.start_soon(audit.run)
    audit.committed([message()], [SubmissionOutcome((("b", 4), ("c", 9)))])
    audit.committed([Confirm("b", "e", 4)], [ConfirmOutcome(applied=True, watermark=4)])
    audit.committed([Confirm("b", "e", 4)], [ConfirmOutcome(applied=False, watermark=4)])
    assert ledger.records == []

    await trio.sleep(1)

    digest = blake3(b"sealed").hexdigest()
    common = {"channel_id": 7, "frame_type": int(FrameType.MSG), "sender": "a", "digest": digest}
    assert ledger.of("delivery") == [
        {
            "scope": "delivery",
            "entries": [
                {**common, "result": "online", "target": "b", "number": 4},
                {**common, "result": "queued", "target": "c", "number": 9},
                {"result": "confirmed", "target": "b", "number": 4},
            ],
        }
    ]
    audit.committed([message()], [SubmissionOutcome((("b", 5),))])
    await trio.sleep(1)
    assert len(ledger.records) == 2


async def test_deliveries_that_do_not_fit_are_counted(ledger: MemoryLedger) -> None:
    audit = DeliveryAudit(Audit(ledger), lambda _device_id: False)
    accepted = tuple(("b", number) for number in range(MAX_GATHERED + 5))
    audit.committed([message()], [SubmissionOutcome(accepted)])
    audit.flush()
    *records, last = ledger.of("delivery")
    assert [len(record["entries"]) for record in records] == [ENTRIES] * (MAX_GATHERED // ENTRIES)
    assert last == {"scope": "delivery", "result": "left out", "entries_left_out": 5}


async def test_what_waits_is_recorded_at_the_end(ledger: MemoryLedger, nursery: trio.Nursery) -> None:
    audit = DeliveryAudit(Audit(ledger), lambda _device_id: False)
    with trio.CancelScope() as scope:
        audit.committed([message()], [SubmissionOutcome((("b", 1),))])
        scope.cancel()
        await audit.run()
    assert len(ledger.of("delivery")) == 1


async def test_a_record_for_a_closed_ledger_is_told_and_breaks_nothing(tmp_path: Path) -> None:
    async with open_ledger("file", tmp_path / "ledger.jsonl") as closed:
        pass
    Audit(closed).server("stop", node="main", version="1")
    assert closed.written == 0


# -- key events --------------------------------------------------------------------------------------


async def test_old_key_events_go_to_a_file_before_they_are_deleted(
    server: Server, ledger: MemoryLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.connect(ALICE)
    device = await server.storage.load_device(ALICE.device_id)
    assert device is not None
    now = NOW + 25 * 86_400
    await CertificateIssuer(AUTHORITY, server.storage, lambda: now).current(device)
    first, newest = await server.storage.key_events(ALICE.device_id)
    archive = KeyEventArchive(
        storage=server.storage,
        audit=Audit(ledger),
        directory=tmp_path / "archive",
        retention=86_400,
        clock=lambda: now + 30 * 86_400,
    )

    with monkeypatch.context() as patch:
        patch.setattr("commucat_server.ops.key_event_archive.append_events", refuse)
        with pytest.raises(OSError, match="No space"):
            await archive.archive()
    assert await server.storage.key_events(ALICE.device_id) == (first, newest)

    assert await archive.archive() == 1
    assert await server.storage.key_events(ALICE.device_id) == (newest,)
    path = tmp_path / "archive" / "key-events.jsonl"
    assert read_archive(path) == [first]
    [record] = ledger.records
    assert record.metadata == {
        "scope": "key-events",
        "event": "archive",
        "events": 1,
        "archive": "key-events.jsonl",
    }
    assert record.digest == blake3(await trio.Path(path).read_bytes()).digest()
    assert await archive.archive() == 0


def refuse(_path: Path, _events: tuple[KeyEvent, ...]) -> bytes:
    raise OSError(28, "No space left on device")
