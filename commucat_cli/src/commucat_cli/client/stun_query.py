"""Asks a STUN server for the own address as the world sees it (RFC 8489, section 6.2.1)."""

import secrets
import socket
import time
from typing import Final

import attrs
import trio

from commucat_cli.errors import CliError, UnknownHostError, UnreachableError
from commucat_proto import stun
from commucat_proto.stun import Attribute, AttributeType

FIRST_WAIT: Final = 0.5
"""Seconds until a request that got no answer is sent again; twice as long each time."""
_MAX_DATAGRAM: Final = 2048


class StunRefusedError(CliError):
    """The server answers with an error."""


class NoResponderError(CliError):
    """The CommuCat server has none, or does not say where it is."""


@attrs.frozen(kw_only=True)
class Reflection:
    """What a server has said."""

    server: stun.SocketAddress
    local: stun.SocketAddress
    mapped: stun.SocketAddress
    """Where the server saw the request come from."""
    rtt_ms: float
    """Of the request that was answered, or of an earlier one."""


async def ask_own_address(
    host: str, port: int, *, patience: float, username: str = "", password: str = ""
) -> Reflection:
    """Send Binding requests until one is answered.

    Args:
        host: name or address.
        port: UDP.
        patience: seconds in all.
        username: of a credential; with it the answer must be proved by the same one.
        password: of the credential.

    Raises:
        UnknownHostError: there is no such host.
        UnreachableError: nothing answers.
        StunRefusedError: the server does not take the credential, or the request.
    """
    server = await _resolve(host, port)
    family = socket.AF_INET6 if server.ip.version == 6 else socket.AF_INET
    key = password.encode() if username else None
    named = [Attribute(AttributeType.USERNAME, username.encode())] if username else []
    transaction = secrets.token_bytes(12)
    request = stun.seal(stun.binding_request(transaction, *named), key=key, fingerprint=True)
    where = stun.format_address(server)
    with trio.socket.socket(family, socket.SOCK_DGRAM) as asker:
        with trio.move_on_after(patience):
            try:
                # Connected, so that the system tells when nobody listens there, and drops what others send.
                await asker.connect((str(server.ip), server.port))
                return await _exchange(asker, request, transaction, key, server)
            except ConnectionRefusedError as exc:
                raise UnreachableError(f"nothing listens at UDP {where}; is the STUN responder on?") from exc
            except OSError as exc:
                raise UnreachableError(f"cannot send to UDP {where}: {exc.strerror or exc}") from exc
    raise UnreachableError(
        f"UDP {where} does not answer within {patience:g} s; is its port open in every firewall on the way?"
    )


async def _exchange(
    asker: trio.socket.SocketType,
    request: bytes,
    transaction: bytes,
    key: bytes | None,
    server: stun.SocketAddress,
) -> Reflection:
    wait = FIRST_WAIT
    began = time.perf_counter()
    while True:
        await asker.send(request)
        with trio.move_on_after(wait):
            while True:
                mapped = _read(await asker.recv(_MAX_DATAGRAM), transaction, key)
                if mapped is not None:
                    return Reflection(
                        server=server,
                        local=stun.SocketAddress.of(*asker.getsockname()[:2]),
                        mapped=mapped,
                        rtt_ms=1000 * (time.perf_counter() - began),
                    )
        wait *= 2


def _read(datagram: bytes, transaction: bytes, key: bytes | None) -> stun.SocketAddress | None:
    """The address in an answer; ``None``: it is no answer to this request, or not proved."""
    try:
        message, proved = stun.verify(datagram, key)
        if message.transaction != transaction or message.method != stun.Method.BINDING:
            return None
        if message.kind is stun.Kind.ERROR:
            code, reason = stun.parse_error(message.first(AttributeType.ERROR_CODE) or b"")
            raise StunRefusedError(f"the STUN server refuses: {reason} ({code})")
        if message.kind is not stun.Kind.SUCCESS or (key is not None and proved is None):
            return None
        return stun.xor_address(message.first(AttributeType.XOR_MAPPED_ADDRESS) or b"", transaction)
    except stun.StunError:
        return None


async def _resolve(host: str, port: int) -> stun.SocketAddress:
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as exc:
        raise UnknownHostError(f"there is no host {host!r}; check the address") from exc
    address = found[0][4]
    return stun.SocketAddress.of(str(address[0]), port)
