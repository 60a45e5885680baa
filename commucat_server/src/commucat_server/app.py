"""The composition root: builds the services, opens the nurseries, and takes them down again.

Nothing is global. What is opened last is closed first: listener, sessions, Redis, ledger,
store, and the lock of the data directory last of all.
"""

import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TypeAlias

import attrs
import structlog
import trio

from commucat_ledger import HeadPolicy, Ledger, Rotation, Signer, open_ledger
from commucat_proto import ServerParameters
from commucat_server.api.application import build_application
from commucat_server.api.context import ApiContext
from commucat_server.blobs.attachments import AttachmentFolder, AttachmentLimits
from commucat_server.blobs.avatars import AvatarFolder
from commucat_server.calls.service import CallService
from commucat_server.config import ServerConfig
from commucat_server.connect.context import ConnectContext, ConnectSettings
from commucat_server.connect.handler import ConnectHandler
from commucat_server.connect.relay import WorkerRelay
from commucat_server.identity.admin_tokens import AdminTokens
from commucat_server.identity.admissions import AdmissionPolicy, Admissions
from commucat_server.identity.certificates import CertificateIssuer
from commucat_server.identity.devices import Devices
from commucat_server.identity.key_history import KeyHistories
from commucat_server.identity.noise_catalogue import NoiseCatalogue
from commucat_server.identity.pairing import Pairing, PairingPolicy
from commucat_server.identity.pairing_codes import PairingCodeHashes
from commucat_server.identity.rotation import RotationPolicy, Rotations
from commucat_server.listener import (
    ListenerSettings,
    ShutdownSignal,
    TlsIdentity,
    open_tcp,
    serve_listeners,
    tls_context,
)
from commucat_server.ops.audit import Audit
from commucat_server.ops.counters import Counters
from commucat_server.ops.delivery_audit import DeliveryAudit
from commucat_server.ops.delivery_log import DeliveryLog
from commucat_server.ops.key_event_archive import KeyEventArchive
from commucat_server.ops.metrics import Metrics, Sources
from commucat_server.ops.operator_watch import OperatorWatch
from commucat_server.ops.reload import Reload
from commucat_server.ops.secret_rotation import SecretRotations
from commucat_server.ops.upkeep import Upkeep
from commucat_server.ops.watch import CollectorPauses, LoopLag
from commucat_server.provision import (
    NOISE_SECRET,
    DataDir,
    Shared,
    load_noise_keys,
    open_shared,
    open_store,
)
from commucat_server.routing.cluster import Cluster
from commucat_server.routing.friend_notices import FriendNotices
from commucat_server.routing.inbox import Inbox
from commucat_server.routing.presence import PresenceBoard
from commucat_server.routing.registry import Registry
from commucat_server.routing.reports import DeliveryReports
from commucat_server.security.admin import AdminAccess, AnyToken, ConfiguredToken
from commucat_server.security.clients import ClientAddresses
from commucat_server.security.limits import RateLimits
from commucat_server.version import server_version
from commucat_storage import Node, Storage
from commucat_storage.key_archive import ARCHIVE_NAME

log = structlog.get_logger("commucat")

SHUTDOWN = {"error": "shutdown", "title": "Server stops", "detail": "connect again later", "retry": True}
Relay: TypeAlias = tuple[WorkerRelay, socket.socket]


@attrs.frozen
class RunningServer:
    """Where a server that has started can be reached, and how it is given another configuration."""

    host: str
    port: int
    reload: Reload

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"


@attrs.frozen(kw_only=True)
class _Services:
    """What is shared by `/connect`, REST and upkeep."""

    registry: Registry
    cluster: Cluster
    counters: Counters
    presence: PresenceBoard
    reports: DeliveryReports
    inbox: Inbox
    calls: CallService
    issuer: CertificateIssuer
    policy: AdmissionPolicy
    noise_keys: NoiseCatalogue
    admin_tokens: AdminTokens
    shared: Shared
    clock: Callable[[], float]
    audit: Audit
    deliveries: DeliveryAudit | None
    pairing: Pairing
    devices: Devices
    rotations: Rotations
    key_histories: KeyHistories
    limits: RateLimits
    clients: ClientAddresses
    loop_lag: LoopLag = attrs.field(factory=LoopLag)
    pauses: CollectorPauses = attrs.field(factory=CollectorPauses)


async def serve(
    config: ServerConfig,
    data_dir: DataDir,
    shutdown: ShutdownSignal,
    *,
    clock: Callable[[], float] = time.time,
    sockets: Sequence[socket.socket] = (),
    relay: Relay | None = None,
    task_status: trio.TaskStatus[RunningServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a server until ``shutdown`` is requested and everything is drained.

    ``started`` is called with the address once clients can connect. ``sockets`` listen already, and are
    shared with other processes; without them the configured address is opened. ``relay``: to these processes,
    and the local socket at which they reach this one.

    Raises:
        StorageError, ProvisionError, LedgerError, TlsConfigError: it cannot start, or the store has
            failed for good; the text says why.
        OSError: the address cannot be bound.
    """
    version = server_version()
    async with open_store(config) as storage, _open_ledger(config, data_dir) as ledger:
        node = Node(
            node_id=secrets.token_hex(8),
            host=socket.gethostname(),
            pid=os.getpid(),
            identity=data_dir.federation_keys.public,
        )
        audit = Audit(ledger)
        audit.server("start", node=config.ledger.node, version=version)
        await storage.enter_cluster(node)
        try:
            async with open_shared(config, node=node.node_id, clock=clock, own=storage.open_bus) as shared:
                services = await _build_services(config, data_dir, storage, ledger, audit, shared, clock)
                await _serve_services(
                    config, data_dir, shutdown, storage, ledger, services, sockets, relay, task_status
                )
        finally:
            await storage.leave_cluster()
        audit.server("stop", node=config.ledger.node, version=version)
        log.info("stopped", messages=services.counters.relay_enqueued)


def _open_ledger(config: ServerConfig, data_dir: DataDir) -> AbstractAsyncContextManager[Ledger]:
    settings, keys = config.ledger, data_dir.federation_keys
    return open_ledger(
        settings.mode.value,
        settings.target,
        rotation=Rotation(max_bytes=settings.rotate_bytes, max_age=settings.rotate_age),
        heads=HeadPolicy(
            signer=Signer(key=keys.public, sign=keys.sign),
            node=settings.node,
            path=settings.heads,
            interval=settings.heads_interval,
        ),
    )


async def _build_services(
    config: ServerConfig,
    data_dir: DataDir,
    storage: Storage,
    ledger: Ledger,
    audit: Audit,
    shared: Shared,
    clock: Callable[[], float],
) -> _Services:
    server, limits = config.server, config.limits
    registry, counters = Registry(), Counters()
    cluster = Cluster(storage, shared.bus, registry, counters)
    reports = DeliveryReports(
        counters=counters, clock=clock, lifetime=limits.relay_ttl, enabled=config.delivery.status
    )
    inbox = Inbox(storage, registry, counters, reports)
    inbox.on_group_change = audit.group_changed
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
    return _Services(
        registry=registry,
        counters=counters,
        cluster=cluster,
        presence=PresenceBoard(storage, registry, cluster, shared.bus, ttl=limits.presence_ttl, clock=clock),
        reports=reports,
        inbox=inbox,
        calls=CallService(
            inbox=inbox, cluster=cluster, ledger=ledger, clock=clock, ring_timeout=limits.ring_timeout
        ),
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
        shared=shared,
        clock=clock,
        audit=audit,
        deliveries=deliveries,
        pairing=Pairing(
            storage,
            issuer,
            PairingCodeHashes(data_dir.federation_keys),
            PairingPolicy(
                domain=server.domain,
                ttl=limits.pairing_ttl,
                devices_per_user=limits.devices_per_user,
                require_approval=config.pairing.require_approval,
            ),
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
        limits=RateLimits.build(config, shared.buckets),
        clients=ClientAddresses(trusted=config.proxy.trusted, header=config.proxy.header),
    )


async def _serve_services(
    config: ServerConfig,
    data_dir: DataDir,
    shutdown: ShutdownSignal,
    storage: Storage,
    ledger: Ledger,
    services: _Services,
    sockets: Sequence[socket.socket],
    relay: Relay | None,
    task_status: trio.TaskStatus[RunningServer],
) -> None:
    tls = TlsIdentity(tls_context(data_dir.tls_certificate, data_dir.tls_key))
    context = _connect_context(config, storage, ledger, services, relay and relay[0])
    handler = ConnectHandler(context)
    if sockets:
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in sockets]
    else:
        listeners = await open_tcp(config.server.bind.host, config.server.bind.port)
    upkeep = Upkeep(
        storage=storage,
        registry=services.registry,
        presence=services.presence,
        reports=services.reports,
        counters=services.counters,
        clock=services.clock,
        presence_ttl=config.limits.presence_ttl,
        keepalive=config.server.keepalive,
        revoked=services.audit.revoked_session_ended,
        expired=None if services.deliveries is None else services.deliveries.expired,
    )
    attachments = _attachments(config, storage, services.clock)
    application = build_application(
        _api_context(config, storage, ledger, services, shutdown, upkeep, attachments)
    )
    reload = Reload(
        config,
        tls=tls,
        limits=services.limits,
        clients=services.clients,
        connect=context,
        deliveries=DeliveryLog(services.inbox, services.registry),
    )
    rotation = SecretRotations(
        storage=storage,
        config=config,
        catalogue=services.noise_keys,
        admin_tokens=services.admin_tokens,
        clock=services.clock,
    )
    watch = OperatorWatch(
        storage=storage,
        registry=services.registry,
        ledger=ledger,
        counters=services.counters,
        clock=services.clock,
        refresh_secrets=rotation.tick,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(services.loop_lag.run)
        nursery.start_soon(services.pauses.run)
        nursery.start_soon(rotation.run)
        nursery.start_soon(watch.run)
        if services.deliveries is not None:
            nursery.start_soon(services.deliveries.run)
        if config.ledger.key_event_retention:
            archive = KeyEventArchive(
                storage=storage,
                audit=services.audit,
                directory=data_dir.path / "archive",
                retention=config.ledger.key_event_retention,
                clock=services.clock,
            )
            nursery.start_soon(archive.run)
        nursery.start_soon(upkeep.run)
        if attachments is not None:
            nursery.start_soon(attachments.run)
        nursery.start_soon(services.cluster.run)
        if relay is not None:
            local = trio.socket.from_stdlib_socket(relay[1])
            nursery.start_soon(relay[0].serve, local, handler.upstreams, config.timeouts.write_stall)
        nursery.start_soon(services.presence.tell_peers)
        nursery.start_soon(services.calls.run)
        nursery.start_soon(services.reports.run, services.inbox.submit, services.inbox.settle)
        nursery.start_soon(storage.wait_failed)
        nursery.start_soon(_end_sessions_at, shutdown, services.registry)
        address = listeners[0].socket.getsockname()
        async with trio.open_nursery() as serving:
            await serving.start(
                partial(
                    serve_listeners,
                    listeners,
                    tls,
                    _listener_settings(config),
                    connect_handler=handler,
                    asgi_app=application,
                    shutdown=shutdown,
                    turnstile=context.turnstile,
                    outflow=services.inbox.outflow,
                    is_proxy=services.clients.trusted_peer if config.proxy.protocol else None,
                )
            )
            task_status.started(RunningServer(address[0], address[1], reload))
        nursery.cancel_scope.cancel()


async def _end_sessions_at(shutdown: ShutdownSignal, registry: Registry) -> None:
    await shutdown.wait()
    log.info("draining", sessions=len(registry))
    registry.end_all(SHUTDOWN)


def _listener_settings(config: ServerConfig) -> ListenerSettings:
    timeouts = config.timeouts
    return ListenerSettings(
        max_connections=config.server.max_connections,
        handshake_timeout=timeouts.tls_handshake,
        idle_timeout=timeouts.idle,
        write_timeout=timeouts.write_stall,
        stall_timeout=timeouts.write_stall,
        drain_timeout=timeouts.drain,
    )


def _connect_context(
    config: ServerConfig,
    storage: Storage,
    ledger: Ledger,
    services: _Services,
    relay: WorkerRelay | None,
) -> ConnectContext:
    limits, timeouts = config.limits, config.timeouts
    return ConnectContext(
        settings=ConnectSettings(
            handshake_timeout=timeouts.handshake,
            write_stall=timeouts.write_stall,
            drain_timeout=timeouts.drain,
            keepalive=config.server.keepalive,
            relay_ttl=limits.relay_ttl,
            channel_members=limits.channel_members,
            delivery_status=config.delivery.status,
            clear_frames=config.transport.clear_frames,
            open_join=config.channels.open_join,
            max_handshakes=limits.handshakes,
        ),
        noise_keys=services.noise_keys,
        storage=storage,
        ledger=ledger,
        admissions=Admissions(storage, services.issuer, services.policy, services.clock),
        issuer=services.issuer,
        registry=services.registry,
        cluster=services.cluster,
        inbox=services.inbox,
        calls=services.calls,
        presence=services.presence,
        bus=services.shared.bus,
        counters=services.counters,
        connect_limit=services.limits.connect,
        new_user_limit=services.limits.new_device,
        messages=services.limits.messages,
        clients=services.clients,
        clock=services.clock,
        relay=relay,
    )


def _api_context(
    config: ServerConfig,
    storage: Storage,
    ledger: Ledger,
    services: _Services,
    shutdown: ShutdownSignal,
    upkeep: Upkeep,
    attachments: AttachmentFolder | None,
) -> ApiContext:
    def takes_work() -> bool:
        return not shutdown.requested

    metrics = Metrics(
        Sources(
            version=server_version(),
            node=services.cluster.node,
            worker=config.worker,
            counters=services.counters,
            registry=services.registry,
            calls=services.calls.board,
            storage=storage,
            ledger=ledger,
            loop_lag=services.loop_lag,
            pauses=services.pauses,
            bus=services.shared.counters,
            ready=takes_work,
            clock=services.clock,
            relay_ttl=config.limits.relay_ttl,
            ring_timeout=config.limits.ring_timeout,
        )
    )
    return ApiContext(
        version=server_version(),
        policy=services.policy,
        patterns=tuple(pattern.value for pattern in config.crypto.supported_patterns),
        keepalive=config.server.keepalive,
        presence_ttl=config.limits.presence_ttl,
        noise_keys=services.noise_keys,
        storage=storage,
        issuer=services.issuer,
        node=services.cluster.node,
        worker=config.worker,
        registry=services.registry,
        counters=services.counters,
        shared=services.shared,
        started_at=services.clock(),
        clock=services.clock,
        draining=lambda: shutdown.requested,
        ledger=ledger,
        pairing=services.pairing,
        claim_failures=services.limits.pairing_failures,
        new_device_limit=services.limits.new_device,
        devices=services.devices,
        rotations=services.rotations,
        key_histories=services.key_histories,
        purge_soon=upkeep.purge_soon,
        admin=AdminAccess(
            authority=AnyToken(ConfiguredToken(config.admin.token), services.admin_tokens),
            anonymous=config.admin.allow_anonymous_metrics,
            bind_host=config.server.bind.host,
        ),
        clients=services.clients,
        limits=services.limits,
        exposition=metrics.exposition,
        friend_notices=FriendNotices(
            services.inbox,
            storage,
            domain=services.policy.domain,
            channel=config.rotation_device.notify_channel,
            lifetime=config.limits.relay_ttl,
            clock=services.clock,
        ),
        introduce=services.presence.introduce,
        avatars=_avatars(config, storage),
        attachments=attachments,
    )


def _avatars(config: ServerConfig, storage: Storage) -> AvatarFolder | None:
    section = config.uploads
    base_url = section.base_url or f"https://{config.server.domain}/uploads"
    return AvatarFolder(section.dir, base_url.rstrip("/"), storage) if section.enabled else None


def _attachments(
    config: ServerConfig, storage: Storage, clock: Callable[[], float]
) -> AttachmentFolder | None:
    section = config.attachments
    limits = AttachmentLimits(
        max_bytes=section.max_bytes,
        user_bytes=section.user_bytes,
        lifetime=section.ttl,
        upload_lifetime=section.upload_ttl,
    )
    return AttachmentFolder(section.dir, limits, storage, clock) if section.enabled else None
