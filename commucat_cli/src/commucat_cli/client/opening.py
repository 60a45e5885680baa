"""Opening a session: the handshake, the tasks behind it, and its orderly end."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from commucat_cli.client.connection import Connection
from commucat_cli.client.rest import answer_within
from commucat_cli.transport import (
    HttpClient,
    ServerAddress,
    SessionStream,
    Timeouts,
    Trust,
    Via,
    open_http,
    session_stream,
)
from commucat_crypto import StaticKeyPair
from commucat_proto import ClientParameters, ClientSession


@asynccontextmanager
async def connect(
    address: ServerAddress,
    trust: Trust,
    parameters: ClientParameters,
    timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
    via: Via = Via.BINARY,
) -> AsyncIterator[Connection]:
    """Connect to a server and open a session; it is closed in order at the end of the block.

    Raises:
        CliError: what went wrong, in words for a person.
    """
    async with (
        open_http(address, trust, via, timeouts) as client,
        attach(client, parameters, timeouts) as connection,
    ):
        yield connection


@asynccontextmanager
async def attach(
    client: HttpClient,
    parameters: ClientParameters,
    timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
) -> AsyncIterator[Connection]:
    """Open a session on a connection that is there already, in the way that this is meant for.

    Raises:
        CliError: what went wrong, in words for a person.
    """
    silence = timeouts.quiet + timeouts.sign_of_life
    async with (
        session_stream(client, silence=silence, patience=timeouts.request) as stream,
        _on_stream(client, stream, parameters, timeouts) as connection,
    ):
        yield connection


@asynccontextmanager
async def _on_stream(
    client: HttpClient, stream: SessionStream, parameters: ClientParameters, timeouts: Timeouts
) -> AsyncIterator[Connection]:
    session = ClientSession(
        parameters, ephemeral=StaticKeyPair.generate(), proof_randomness=secrets.token_bytes(64)
    )
    connection = Connection(client, stream, session, timeouts)
    with answer_within(timeouts.handshake, "the server does not finish the handshake"):
        await connection.establish(with_code=parameters.code is not None)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        nursery.start_soon(connection.send_confirmations)
        try:
            yield connection
        except Exception as exc:  # noqa: BLE001 - raised again below, outside of the nursery's group
            failure = exc
        await connection.close()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
