"""What the two interfaces, `/connect` and REST, are given of the services."""

from collections.abc import Callable

from commucat_ledger import Ledger
from commucat_server.api.assistance import Assistance
from commucat_server.api.context import ApiContext
from commucat_server.blobs.attachments import AttachmentFolder
from commucat_server.blobs.avatars import AvatarFolder
from commucat_server.composition.limits import attachment_limits
from commucat_server.composition.services import Services
from commucat_server.config import ServerConfig
from commucat_server.connect.context import ConnectContext, ConnectSettings
from commucat_server.connect.relay import WorkerRelay
from commucat_server.federation.service import Federation
from commucat_server.identity.admissions import Admissions
from commucat_server.listener import (
    ListenerSettings,
    ShutdownSignal,
)
from commucat_server.ops.metrics import Metrics, Sources
from commucat_server.ops.upkeep import Upkeep
from commucat_server.security.admin import AdminAccess, AnyToken
from commucat_server.version import server_version
from commucat_storage import Storage


def listener_settings(config: ServerConfig) -> ListenerSettings:
    timeouts = config.timeouts
    return ListenerSettings(
        max_connections=config.server.max_connections,
        handshake_timeout=timeouts.tls_handshake,
        idle_timeout=timeouts.idle,
        write_timeout=timeouts.write_stall,
        stall_timeout=timeouts.write_stall,
        drain_timeout=timeouts.drain,
    )


def connect_context(
    config: ServerConfig,
    storage: Storage,
    ledger: Ledger,
    services: Services,
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
            domain=config.server.domain,
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
        forwarder=services.forwarder,
        presence=services.presence,
        bus=services.shared.bus,
        counters=services.counters,
        connect_limit=services.limits.connect,
        new_user_limit=services.limits.new_device,
        messages=services.limits.messages,
        clients=services.clients,
        clock=services.clock,
        relay=relay,
        spans=services.spans,
    )


def api_context(
    config: ServerConfig,
    storage: Storage,
    ledger: Ledger,
    services: Services,
    federation: Federation | None,
    shutdown: ShutdownSignal,
    upkeep: Upkeep,
    attachments: AttachmentFolder | None,
    assistance: Assistance | None,
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
            calls=services.calls,
            forwarder=services.forwarder,
            storage=storage,
            ledger=ledger,
            loop_lag=services.loop_lag,
            wakefulness=services.wakefulness,
            pauses=services.pauses,
            bus=services.shared.counters,
            ready=takes_work,
            clock=services.clock,
            relay_ttl=config.limits.relay_ttl,
            ring_timeout=config.limits.ring_timeout,
            federation=None if federation is None else federation.figures,
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
            authority=AnyToken(services.configured_token, services.admin_tokens),
            anonymous=config.admin.allow_anonymous_metrics,
            bind_host=config.server.bind.host,
        ),
        clients=services.clients,
        limits=services.limits,
        exposition=metrics.exposition,
        friend_notices=services.friend_notices,
        introduce=services.presence.introduce,
        avatars=_avatar_folder(config, storage),
        attachments=attachments,
        spans=services.spans,
        federation=federation,
        assistance=assistance,
        max_frame=config.limits.max_frame,
    )


def _avatar_folder(config: ServerConfig, storage: Storage) -> AvatarFolder | None:
    section = config.uploads
    base_url = section.base_url or f"https://{config.server.domain}/uploads"
    return AvatarFolder(section.dir, base_url.rstrip("/"), storage) if section.enabled else None


def attachment_folder(
    config: ServerConfig, storage: Storage, clock: Callable[[], float]
) -> AttachmentFolder | None:
    section = config.attachments
    if not section.enabled:
        return None
    return AttachmentFolder(section.dir, attachment_limits(config), storage, clock)
