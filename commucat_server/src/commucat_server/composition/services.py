"""Everything that `/connect`, REST and the background share, built from a configuration."""

from collections.abc import Callable

import attrs

from commucat_ledger import Ledger
from commucat_proto import ServerParameters
from commucat_server.calls.forwarder import Forwarder
from commucat_server.calls.service import CallService
from commucat_server.calls.transcoding import Transcoding
from commucat_server.composition.limits import call_limits, forwarding_limits, pairing_policy
from commucat_server.config import ServerConfig
from commucat_server.identity.admin_tokens import AdminTokens
from commucat_server.identity.admissions import AdmissionPolicy
from commucat_server.identity.certificates import CertificateIssuer
from commucat_server.identity.devices import Devices
from commucat_server.identity.key_history import KeyHistories
from commucat_server.identity.noise_catalogue import NoiseCatalogue
from commucat_server.identity.pairing import Pairing
from commucat_server.identity.pairing_codes import PairingCodeHashes
from commucat_server.identity.rotation import RotationPolicy, Rotations
from commucat_server.ops.audit import Audit
from commucat_server.ops.counters import Counters
from commucat_server.ops.delivery_audit import DeliveryAudit
from commucat_server.ops.spans import Spans
from commucat_server.ops.wakefulness import Wakefulness
from commucat_server.ops.watch import CollectorPauses, LoopLag
from commucat_server.provision import (
    NOISE_SECRET,
    DataDir,
    Shared,
    load_noise_keys,
)
from commucat_server.routing.cluster import Cluster
from commucat_server.routing.friend_notices import FriendNotices
from commucat_server.routing.inbox import Inbox
from commucat_server.routing.presence import PresenceBoard
from commucat_server.routing.registry import Registry
from commucat_server.routing.reports import DeliveryReports
from commucat_server.security.admin import ConfiguredToken
from commucat_server.security.clients import ClientAddresses
from commucat_server.security.limits import RateLimits
from commucat_storage import ChangeGroup, CreateGroup, InviteMember, Storage
from commucat_storage.key_archive import ARCHIVE_NAME


@attrs.frozen(kw_only=True)
class Services:
    """What is shared by `/connect`, REST and upkeep."""

    registry: Registry
    cluster: Cluster
    counters: Counters
    presence: PresenceBoard
    reports: DeliveryReports
    inbox: Inbox
    calls: CallService
    forwarder: Forwarder
    issuer: CertificateIssuer
    policy: AdmissionPolicy
    noise_keys: NoiseCatalogue
    admin_tokens: AdminTokens
    configured_token: ConfiguredToken
    shared: Shared
    clock: Callable[[], float]
    audit: Audit
    deliveries: DeliveryAudit | None
    pairing: Pairing
    devices: Devices
    rotations: Rotations
    key_histories: KeyHistories
    friend_notices: FriendNotices
    limits: RateLimits
    clients: ClientAddresses
    spans: Spans
    wakefulness: Wakefulness = attrs.field(factory=Wakefulness)
    loop_lag: LoopLag = attrs.field(factory=LoopLag)
    pauses: CollectorPauses = attrs.field(factory=CollectorPauses)


async def build_services(
    config: ServerConfig,
    data_dir: DataDir,
    storage: Storage,
    ledger: Ledger,
    audit: Audit,
    shared: Shared,
    spans: Spans,
    clock: Callable[[], float],
) -> Services:
    server, limits = config.server, config.limits
    registry, counters = Registry(), Counters()
    cluster = Cluster(storage, shared.bus, registry, counters)
    reports = DeliveryReports(
        counters=counters, clock=clock, lifetime=limits.relay_ttl, enabled=config.delivery.status
    )
    inbox = Inbox(storage, registry, counters, reports)
    calls = CallService(
        storage=storage,
        registry=registry,
        inbox=inbox,
        cluster=cluster,
        ledger=ledger,
        counters=counters,
        clock=clock,
        limits=call_limits(config),
    )
    forwarder = Forwarder(
        board=calls.board,
        registry=registry,
        inbox=inbox,
        cluster=cluster,
        counters=counters,
        limits=forwarding_limits(config),
        transcoding=Transcoding(threads=config.calls.transcoders, streams=config.calls.transcoded_streams),
        forwarded_bytes=config.calls.forwarded_bytes,
    )

    def group_changed(operation: CreateGroup | InviteMember | ChangeGroup) -> None:
        forwarder.expire(operation.channel)
        audit.group_changed(operation)

    inbox.on_group_change = group_changed
    deliveries = None
    if config.ledger.deliveries:
        deliveries = DeliveryAudit(audit, lambda device_id: registry.receiver(device_id) is not None)
        inbox.on_commit = deliveries.committed
    known_version = await storage.latest_secret_version(NOISE_SECRET)
    versions = await load_noise_keys(storage, config, int(clock()))
    for key in versions:
        if key.version > known_version:
            audit.secret_created(NOISE_SECRET, key.version, key.keys.public)
    issuer = CertificateIssuer(data_dir.federation_keys, storage, clock, audit.certificate_renewed)
    rotation = config.rotation_device
    admin_tokens = AdminTokens()
    await admin_tokens.refresh(storage)
    return Services(
        registry=registry,
        counters=counters,
        cluster=cluster,
        presence=PresenceBoard(storage, registry, cluster, shared.bus, ttl=limits.presence_ttl, clock=clock),
        reports=reports,
        inbox=inbox,
        calls=calls,
        forwarder=forwarder,
        issuer=issuer,
        policy=AdmissionPolicy(
            domain=server.domain,
            auto_approve_devices=server.auto_approve_devices,
            join_by_handle=server.join_by_handle,
            max_auto_devices_per_user=server.max_auto_devices_per_user,
            session_ttl=server.keepalive,
        ),
        noise_keys=NoiseCatalogue(
            versions,
            ServerParameters(
                domain=server.domain,
                keys=(),
                prologue=config.crypto.prologue.encode(),
                patterns=config.crypto.supported_patterns,
                max_frame_len=limits.max_frame,
            ),
            clock=clock,
            authority=data_dir.federation_keys,
        ),
        admin_tokens=admin_tokens,
        configured_token=ConfiguredToken(config.admin.token),
        shared=shared,
        clock=clock,
        audit=audit,
        deliveries=deliveries,
        pairing=Pairing(
            storage,
            issuer,
            PairingCodeHashes(data_dir.federation_keys),
            pairing_policy(config),
            audit,
            clock,
        ),
        devices=Devices(storage, issuer, audit, clock, devices_per_user=limits.devices_per_user),
        rotations=Rotations(
            storage,
            issuer,
            inbox,
            registry,
            RotationPolicy(
                enabled=rotation.enabled,
                min_interval=rotation.min_interval,
                proof_ttl=rotation.proof_ttl,
                notify_channel=rotation.notify_channel,
            ),
            audit,
            counters,
            clock,
            relay_ttl=limits.relay_ttl,
        ),
        key_histories=KeyHistories(
            storage,
            data_dir.federation_keys,
            clock,
            data_dir.path / "archive" / ARCHIVE_NAME if config.ledger.key_event_retention else None,
        ),
        friend_notices=FriendNotices(
            inbox,
            storage,
            domain=server.domain,
            channel=rotation.notify_channel,
            lifetime=limits.relay_ttl,
            clock=clock,
        ),
        limits=RateLimits.build(config, shared.buckets),
        spans=spans,
        clients=ClientAddresses(trusted=config.proxy.trusted, header=config.proxy.header),
    )
