"""The composition root: builds the services, opens the nurseries, and takes them down again.

Nothing is global. What is opened last is closed first: listener, sessions, ledger, store,
and the lock of the data directory last of all.
"""

import time
from collections.abc import Callable
from functools import partial

import attrs
import structlog
import trio

from commucat_ledger import Ledger, open_ledger
from commucat_proto import ServerParameters
from commucat_proto.server_session import ServerKey
from commucat_server.api.application import build_application
from commucat_server.api.context import ApiContext
from commucat_server.calls.service import CallService
from commucat_server.config import ServerConfig
from commucat_server.connect.context import ConnectContext, ConnectSettings
from commucat_server.connect.handler import ConnectHandler
from commucat_server.identity.admissions import AdmissionPolicy, Admissions
from commucat_server.identity.certificates import CertificateIssuer
from commucat_server.listener import ListenerSettings, ShutdownSignal, open_tcp, serve_listeners, tls_context
from commucat_server.ops.counters import Counters
from commucat_server.ops.upkeep import Upkeep
from commucat_server.provision import DataDir, NoiseKeyVersion, load_noise_keys, open_store
from commucat_server.routing.inbox import Inbox
from commucat_server.routing.presence import PresenceBoard
from commucat_server.routing.registry import Registry
from commucat_server.routing.reports import DeliveryReports
from commucat_server.security.rate import RateLimit
from commucat_server.version import server_version
from commucat_storage import Storage

log = structlog.get_logger("commucat")

SHUTDOWN = {"error": "shutdown", "title": "Server stops", "detail": "connect again later", "retry": True}


@attrs.frozen
class RunningServer:
    """Where a server that has started can be reached."""

    host: str
    port: int

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"


@attrs.frozen(kw_only=True)
class _Services:
    """What is shared by `/connect`, REST and upkeep."""

    registry: Registry
    counters: Counters
    presence: PresenceBoard
    reports: DeliveryReports
    inbox: Inbox
    calls: CallService
    issuer: CertificateIssuer
    policy: AdmissionPolicy
    noise_keys: tuple[NoiseKeyVersion, ...]
    clock: Callable[[], float]


async def serve(
    config: ServerConfig,
    data_dir: DataDir,
    shutdown: ShutdownSignal,
    *,
    clock: Callable[[], float] = time.time,
    task_status: trio.TaskStatus[RunningServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a server until ``shutdown`` is requested and everything is drained.

    ``started`` is called with the address once clients can connect.

    Raises:
        StorageError, ProvisionError, LedgerError, TlsConfigError: it cannot start, or the store has
            failed for good; the text says why.
        OSError: the address cannot be bound.
    """
    async with (
        open_store(config) as storage,
        open_ledger(config.ledger.mode.value, config.ledger.target) as ledger,
    ):
        services = await _build_services(config, data_dir, storage, ledger, clock)
        await _serve_services(config, data_dir, shutdown, storage, ledger, services, task_status)
        log.info("stopped", messages=services.counters.relay_enqueued)


async def _build_services(
    config: ServerConfig, data_dir: DataDir, storage: Storage, ledger: Ledger, clock: Callable[[], float]
) -> _Services:
    server, limits = config.server, config.limits
    registry, counters = Registry(), Counters()
    reports = DeliveryReports(
        counters=counters, clock=clock, lifetime=limits.relay_ttl, enabled=config.delivery.status
    )
    inbox = Inbox(storage, registry, counters, reports)
    return _Services(
        registry=registry,
        counters=counters,
        presence=PresenceBoard(storage, registry, ttl=limits.presence_ttl, clock=clock),
        reports=reports,
        inbox=inbox,
        calls=CallService(inbox=inbox, ledger=ledger, clock=clock, ring_timeout=limits.ring_timeout),
        issuer=CertificateIssuer(data_dir.federation_keys, storage, clock),
        policy=AdmissionPolicy(
            domain=server.domain,
            auto_approve_devices=server.auto_approve_devices,
            join_by_handle=server.join_by_handle,
            max_auto_devices_per_user=server.max_auto_devices_per_user,
            session_ttl=server.keepalive,
        ),
        noise_keys=await load_noise_keys(storage, config, int(clock())),
        clock=clock,
    )


async def _serve_services(
    config: ServerConfig,
    data_dir: DataDir,
    shutdown: ShutdownSignal,
    storage: Storage,
    ledger: Ledger,
    services: _Services,
    task_status: trio.TaskStatus[RunningServer],
) -> None:
    tls = tls_context(data_dir.tls_certificate, data_dir.tls_key)
    context = _connect_context(config, storage, ledger, services)
    application = build_application(_api_context(config, storage, services, shutdown))
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
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(upkeep.run)
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
                    connect_handler=ConnectHandler(context),
                    asgi_app=application,
                    shutdown=shutdown,
                    turnstile=context.turnstile,
                )
            )
            task_status.started(RunningServer(address[0], address[1]))
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
    config: ServerConfig, storage: Storage, ledger: Ledger, services: _Services
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
        parameters=ServerParameters(
            domain=config.server.domain,
            keys=[ServerKey(version=key.version, keys=key.keys) for key in services.noise_keys],
            prologue=config.crypto.prologue.encode(),
            patterns=config.crypto.supported_patterns,
            max_frame_len=limits.max_frame,
        ),
        noise_keys=services.noise_keys,
        storage=storage,
        ledger=ledger,
        admissions=Admissions(storage, services.issuer, services.policy, services.clock),
        issuer=services.issuer,
        registry=services.registry,
        inbox=services.inbox,
        calls=services.calls,
        presence=services.presence,
        counters=services.counters,
        connect_limit=RateLimit(burst=limits.connects_per_second, period=1.0, clock=time.monotonic),
        new_user_limit=RateLimit(burst=limits.new_devices_per_hour, period=3600.0, clock=time.monotonic),
        clock=services.clock,
    )


def _api_context(
    config: ServerConfig, storage: Storage, services: _Services, shutdown: ShutdownSignal
) -> ApiContext:
    return ApiContext(
        version=server_version(),
        policy=services.policy,
        patterns=tuple(pattern.value for pattern in config.crypto.supported_patterns),
        keepalive=config.server.keepalive,
        presence_ttl=config.limits.presence_ttl,
        noise_keys=services.noise_keys,
        storage=storage,
        issuer=services.issuer,
        registry=services.registry,
        counters=services.counters,
        started_at=services.clock(),
        clock=services.clock,
        draining=lambda: shutdown.requested,
    )
