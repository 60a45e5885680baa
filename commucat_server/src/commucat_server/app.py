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
from commucat_server.api.application import build_application
from commucat_server.composition.interfaces import (
    api_context,
    attachment_folder,
    connect_context,
    listener_settings,
)
from commucat_server.composition.limits import take_limits
from commucat_server.composition.nat import build_nat, stream_handler
from commucat_server.composition.services import Services, build_services
from commucat_server.config import ServerConfig
from commucat_server.connect.handler import ConnectHandler
from commucat_server.connect.relay import WorkerRelay
from commucat_server.federation.composition import FederationServices, open_federation
from commucat_server.federation.service import Federation
from commucat_server.listener import (
    ShutdownSignal,
    TlsIdentity,
    open_tcp,
    serve_listeners,
    tls_context,
)
from commucat_server.nat.udp import serve_stun, stun_socket
from commucat_server.ops.audit import Audit
from commucat_server.ops.delivery_log import DeliveryLog
from commucat_server.ops.key_event_archive import KeyEventArchive
from commucat_server.ops.operator_watch import OperatorWatch
from commucat_server.ops.reload import Reload
from commucat_server.ops.secret_rotation import SecretRotations
from commucat_server.ops.spans import open_spans
from commucat_server.ops.upkeep import Upkeep
from commucat_server.p2p.handler import RelayHandler
from commucat_server.provision import (
    DataDir,
    open_shared,
    open_store,
)
from commucat_server.routing.registry import Registry
from commucat_server.version import server_version
from commucat_storage import Node, Storage

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


async def serve(
    config: ServerConfig,
    data_dir: DataDir,
    shutdown: ShutdownSignal,
    *,
    clock: Callable[[], float] = time.time,
    sockets: Sequence[socket.socket] = (),
    relay: Relay | None = None,
    datagrams: socket.socket | None = None,
    task_status: trio.TaskStatus[RunningServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a server until ``shutdown`` is requested and everything is drained.

    ``started`` is called with the address once clients can connect. ``sockets`` listen already, and are
    shared with other processes; without them the configured address is opened. ``relay``: to these processes,
    and the local socket at which they reach this one. ``datagrams``: the socket of the STUN responder, shared
    likewise; without it the configured address is opened if the responder is on.

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
            async with (
                open_spans(config, version=version, node=node.node_id) as spans,
                open_shared(config, node=node.node_id, clock=clock, own=storage.open_bus) as shared,
            ):
                services = await build_services(
                    config, data_dir, storage, ledger, audit, shared, spans, clock
                )
                async with open_federation(
                    config,
                    data_dir.federation_keys,
                    FederationServices(
                        storage=storage,
                        inbox=services.inbox,
                        reports=services.reports,
                        cluster=services.cluster,
                        counters=services.counters,
                        issuer=services.issuer,
                        notices=services.friend_notices,
                        registry=services.registry,
                        board=services.presence,
                        clock=clock,
                    ),
                ) as federation:
                    # Of workers the parent has opened it, if it is wanted at all.
                    wanted = config.ice.lite_enabled and relay is None
                    with stun_socket(config.ice.lite_bind if wanted else None, datagrams) as opened:
                        await _serve_services(
                            config,
                            data_dir,
                            shutdown,
                            storage,
                            ledger,
                            services,
                            federation,
                            sockets,
                            relay,
                            opened,
                            task_status,
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


async def _serve_services(
    config: ServerConfig,
    data_dir: DataDir,
    shutdown: ShutdownSignal,
    storage: Storage,
    ledger: Ledger,
    services: Services,
    federation: Federation | None,
    sockets: Sequence[socket.socket],
    relay: Relay | None,
    datagrams: socket.socket | None,
    task_status: trio.TaskStatus[RunningServer],
) -> None:
    tls = TlsIdentity(tls_context(data_dir.tls_certificate, data_dir.tls_key))
    context = connect_context(config, storage, ledger, services, relay and relay[0])
    handler = ConnectHandler(context)
    nat = build_nat(config, data_dir, storage, services, relay and relay[0], datagrams)
    listeners = await open_tcp(config.server.bind.host, config.server.bind.port, given=sockets)
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
    attachments = attachment_folder(config, storage, services.clock)
    application = build_application(
        api_context(
            config, storage, ledger, services, federation, shutdown, upkeep, attachments, nat.assistance
        )
    )
    reload = Reload(
        config,
        tls=tls,
        limits=services.limits,
        clients=services.clients,
        connect=context,
        deliveries=DeliveryLog(services.inbox, services.registry),
        take_limits=partial(
            take_limits,
            domain=config.server.domain,
            storage=storage,
            pairing=services.pairing,
            devices=services.devices,
            calls=services.calls,
            attachments=attachments,
            token=services.configured_token,
        ),
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
        ledger=ledger,
        counters=services.counters,
        clock=services.clock,
        changed=[rotation.tick, *([] if federation is None else [federation.changed])],
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(services.loop_lag.run)
        nursery.start_soon(services.pauses.run)
        if config.server.keep_awake:
            nursery.start_soon(services.wakefulness.run)
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
        if federation is not None:
            nursery.start_soon(federation.run)
        if attachments is not None:
            nursery.start_soon(attachments.run)
        nursery.start_soon(services.cluster.run)
        if relay is not None:
            local = trio.socket.from_stdlib_socket(relay[1])
            meet = None if nat.relay is None else nat.relay.attend_passed
            nursery.start_soon(relay[0].serve, local, handler.upstreams, config.timeouts.write_stall, meet)
        if datagrams is not None and nat.responder is not None:
            log.info("stun responder", bind=str(config.ice.lite_bind), port=datagrams.getsockname()[1])
            nursery.start_soon(serve_stun, datagrams, nat.responder)
        nursery.start_soon(services.presence.tell_peers)
        await nursery.start(services.calls.run)
        nursery.start_soon(services.forwarder.rounds.run)
        await nursery.start(services.forwarder.transcoding.run)
        nursery.start_soon(services.limits.messages.run)
        nursery.start_soon(services.reports.run, services.inbox.submit, services.inbox.settle)
        nursery.start_soon(storage.wait_failed)
        nursery.start_soon(_end_sessions_at, shutdown, services.registry, nat.relay)
        address = listeners[0].socket.getsockname()
        async with trio.open_nursery() as serving:
            await serving.start(
                partial(
                    serve_listeners,
                    listeners,
                    tls,
                    listener_settings(config),
                    connect_handler=stream_handler(handler, nat.relay),
                    asgi_app=application,
                    shutdown=shutdown,
                    turnstile=context.turnstile,
                    outflow=services.inbox.outflow,
                    is_proxy=services.clients.trusted_peer if config.proxy.protocol else None,
                )
            )
            task_status.started(RunningServer(address[0], address[1], reload))
        nursery.cancel_scope.cancel()


async def _end_sessions_at(shutdown: ShutdownSignal, registry: Registry, relay: RelayHandler | None) -> None:
    await shutdown.wait()
    log.info("draining", sessions=len(registry))
    registry.end_all(SHUTDOWN)
    if relay is not None:
        relay.meetings.end_all()
