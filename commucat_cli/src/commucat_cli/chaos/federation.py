"""What a run of several domains has beside its clients: outboxes that must become empty, and messages that a
server has refused for good.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import trio

from commucat_cli.bench.child import ChildError
from commucat_cli.chaos.history import HistoryWriter, Returned
from commucat_cli.chaos.link import TIMEOUTS
from commucat_cli.chaos.payload import decode_control, decode_message
from commucat_cli.chaos.victim import Victim
from commucat_cli.client.rest import answer_within, read_json
from commucat_cli.errors import CliError
from commucat_cli.transport import ServerAddress, Trust, open_h2
from commucat_proto import FrameType, json_text
from commucat_storage import DeadLetter, SqliteSettings, Storage, open_sqlite

OUTBOX_PATIENCE = 60.0
"""Seconds in which everything must have been carried, once nothing more is sent and nothing is struck."""
_PEERS = "/api/federation/peers"
_LOOK_INTERVAL = 0.1
_ALL = 10_000_000


async def wait_carried(victims: Sequence[Victim]) -> None:
    """Wait until all outboxes are empty.

    Raises:
        ChildError: they are not, :data:`OUTBOX_PATIENCE` seconds later; the text says what is missing.
    """
    missing = "nothing is known of the outboxes"
    with trio.move_on_after(OUTBOX_PATIENCE):
        while missing:
            found = [await _waiting(victim) for victim in victims]
            missing = "; ".join(text for texts in found for text in texts)
            if missing:
                await trio.sleep(_LOOK_INTERVAL)
    if missing:
        raise ChildError(f"after {OUTBOX_PATIENCE:g} s still: {missing}")


async def _waiting(victim: Victim) -> list[str]:
    """What one server has for its peers, in words."""
    address, trust = ServerAddress.parse(victim.url), Trust(ca_file=victim.tls_ca)
    try:
        async with open_h2(address, trust, TIMEOUTS) as client:
            with answer_within(TIMEOUTS.request, f"the server does not answer {_PEERS}"):
                response = await client.get(_PEERS, [("accept", "application/json")])
        peers = read_json(response, _PEERS)["peers"]
    except CliError as exc:
        return [f"{victim.domain}: {exc}"]
    return [
        f"{peer['waiting']} messages of {victim.domain} for {peer['domain']} ({peer['state']}"
        f"{', ' + peer['last_error'] if peer['last_error'] else ''})"
        for peer in peers
        if peer["waiting"]
    ]


async def write_returned(victims: Sequence[Victim], history: Path) -> None:
    """Write down what servers have refused for good, once all of them have ended."""
    with history.open("wb") as file:
        writer = HistoryWriter(file)
        for victim in victims:
            async with _store_of(victim) as storage:
                for letter in await storage.dead_letters(None, _ALL):
                    writer.add(_returned(letter))


def _store_of(victim: Victim) -> AbstractAsyncContextManager[Storage]:
    if victim.dsn is None:
        return open_sqlite(victim.database, settings=SqliteSettings())
    # Only now: it changes how asyncio works.
    from commucat_storage.postgres import open_postgres

    return open_postgres(victim.dsn)


def _returned(letter: DeadLetter) -> Returned:
    if letter.frame_type == FrameType.MSG:
        message = decode_message(letter.payload)
    else:
        try:
            message = decode_control(json_text.loads(letter.payload))
        except json_text.JsonTextError:
            message = None
    return Returned(letter.target.partition("@")[0], message, letter.reason)
