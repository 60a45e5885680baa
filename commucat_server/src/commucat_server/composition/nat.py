"""What helps two devices to a path: the STUN responder, advice, and the relay ``/p2p``."""

import ipaddress
import socket
import time
from collections.abc import Callable

import attrs

from commucat_proto import stun
from commucat_server.api.assistance import Assistance
from commucat_server.composition.services import Services
from commucat_server.config import BindAddress, ServerConfig
from commucat_server.config.ice_section import RelayAuth
from commucat_server.connect.handler import ConnectHandler
from commucat_server.connect.relay import WorkerRelay
from commucat_server.listener import ConnectHandler as StreamHandler
from commucat_server.listener import ConnectStream
from commucat_server.nat.assist import IceAdvice
from commucat_server.nat.credentials import IceCredentials
from commucat_server.nat.responder import Responder, rate_limit
from commucat_server.p2p.handler import RelayAccess, RelayHandler, refuse_disabled
from commucat_server.p2p.meetings import Meetings, RelayLimits
from commucat_server.p2p.tickets import RelayTickets
from commucat_server.provision import DataDir
from commucat_server.security.rate import RateLimit
from commucat_storage import Storage

_MINUTE = 60.0


@attrs.frozen(kw_only=True)
class Nat:
    """The parts; ``None`` is one that the configuration switches off."""

    responder: Responder | None
    assistance: Assistance | None
    relay: RelayHandler | None


def build_nat(
    config: ServerConfig,
    data_dir: DataDir,
    storage: Storage,
    services: Services,
    relay: WorkerRelay | None,
    opened: socket.socket | None,
) -> Nat:
    """Build them; ``opened`` is the responder's socket, if there is one."""
    credentials = IceCredentials(data_dir.federation_keys, services.clock)
    tickets = RelayTickets(data_dir.federation_keys, services.clock)
    own = None if opened is None else own_address(config, opened)
    return Nat(
        responder=None
        if own is None
        else Responder(credentials, own, rate_limit(config.ice.lite_rate, time.monotonic), services.counters),
        assistance=_assistance(config, credentials, tickets, own, services.clock)
        if config.p2p.assist_enabled
        else None,
        relay=_relay(config, tickets, storage, services, relay) if config.p2p.relay_enabled else None,
    )


def own_address(config: ServerConfig, opened: socket.socket) -> stun.SocketAddress:
    """Where clients find the responder, as far as the configuration says it."""
    address: BindAddress | None = config.ice.lite_public_address
    if address is not None:
        return stun.SocketAddress.of(address.host, address.port)
    return stun.SocketAddress.of(config.ice.lite_bind.host, opened.getsockname()[1])


def _assistance(
    config: ServerConfig,
    credentials: IceCredentials,
    tickets: RelayTickets,
    own: stun.SocketAddress | None,
    clock: Callable[[], float],
) -> Assistance:
    reachable = own is not None and not ipaddress.ip_address(str(own.ip)).is_unspecified
    return Assistance(
        ice=IceAdvice(
            credentials=credentials,
            turn=config.ice.turn.servers,
            turn_ttl=config.ice.turn_ttl,
            lite=own if reachable else None,
            ttl=min(max(config.limits.pairing_ttl, 60), 3600),
            keepalive=min(max(config.server.keepalive, 5), 120),
            clock=clock,
        ),
        tickets=tickets if config.p2p.relay_enabled else None,
        rate=RateLimit(burst=config.p2p.assist_per_minute, period=_MINUTE, clock=time.monotonic),
        prologue=config.crypto.prologue.encode(),
    )


def _relay(
    config: ServerConfig,
    tickets: RelayTickets,
    storage: Storage,
    services: Services,
    relay: WorkerRelay | None,
) -> RelayHandler:
    section = config.p2p
    limits = RelayLimits(
        pairs=section.relay_pairs,
        per_owner=section.relay_per_user,
        bytes=section.relay_bytes,
        seconds=section.relay_seconds,
        idle=section.relay_idle,
    )
    return RelayHandler(
        meetings=Meetings(limits, services.counters),
        access=RelayAccess(
            storage=storage,
            tickets=tickets,
            clock=services.clock,
            required=section.relay_auth is RelayAuth.REQUIRED,
        ),
        limit=services.limits.http,
        clients=services.clients,
        counters=services.counters,
        relay=relay,
    )


def stream_handler(connect: ConnectHandler, relay: RelayHandler | None) -> StreamHandler:
    """What serves the streams of the listener, by their path."""

    async def handle(stream: ConnectStream) -> None:
        if stream.path == "/connect":
            await connect(stream)
        elif relay is not None:
            await relay(stream)
        else:
            await refuse_disabled(stream)

    return handle
