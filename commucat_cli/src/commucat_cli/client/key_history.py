"""Checking what the server says about the history of a device's keys."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import attrs

from commucat_cli.client.connection import Connection
from commucat_cli.errors import NotCommuCatError, TrustError
from commucat_crypto import CryptoError, history_statement, verify_signature
from commucat_ledger.key_chain import KeyChainEvent, links_of

GENESIS = bytes(32)


@attrs.frozen(kw_only=True)
class CheckedHistory:
    """A history whose links and signature are right."""

    device_id: str
    events: tuple[KeyChainEvent, ...]
    links: tuple[bytes, ...]
    document: Mapping[str, Any] = attrs.field(repr=False)
    """The signed head, as it came: a proof to hold against the server's operator."""

    @property
    def link(self) -> bytes:
        """Of the newest event."""
        return self.links[-1] if self.links else GENESIS

    @property
    def key(self) -> bytes | None:
        """The device's key according to the newest event."""
        return self.events[-1].public_key if self.events else None

    def leads_through(self, link: bytes) -> bool:
        """Whether the history still has the part that ended with ``link``."""
        return link == GENESIS or link in self.links


async def fetch_key_history(connection: Connection, device_id: str, device_ca: bytes) -> CheckedHistory:
    """Ask for the key events of a device of the same user, and check them.

    Raises:
        TrustError: links or signature are wrong.
        CliError: the server could not be asked.
    """
    path = f"/api/devices/{quote(device_id, safe='')}/key-events"
    answer = await connection.get(path)
    try:
        events = tuple(_event(device_id, each) for each in answer["events"])
        claimed = tuple(bytes.fromhex(each["link"]) for each in answer["events"])
        head = answer["head"]
        link, signed_at = bytes.fromhex(head["link"]), int(head["signed_at"])
        key, signature = bytes.fromhex(head["key"]), bytes.fromhex(head["signature"])
        count = int(head["events"])
        links = tuple(links_of(events))
        statement = history_statement(device_id, events=count, link=link, signed_at=signed_at)
    except (KeyError, TypeError, ValueError, OverflowError) as exc:
        raise NotCommuCatError(f"the answer to {path} is no history of keys") from exc
    if key != device_ca:
        raise TrustError("the history of keys is signed by another server than the one of the login")
    try:
        verify_signature(device_ca, statement, signature)
    except CryptoError as exc:
        raise TrustError(f"the signature of the history of keys is wrong: {exc}") from exc
    if links != claimed or count != len(events) or link != (links[-1] if links else GENESIS):
        raise TrustError("the history of keys does not lead to what the server has signed")
    return CheckedHistory(device_id=device_id, events=events, links=links, document=head)


def _event(device_id: str, value: Mapping[str, Any]) -> KeyChainEvent:
    public_key, recorded_at = bytes.fromhex(value["public_key"]), value["recorded_at"]
    if len(public_key) != 32 or not isinstance(recorded_at, int) or not 0 <= recorded_at < 2**63:
        raise ValueError("no key event")
    event_id = value["event_id"]
    if not isinstance(event_id, str):
        raise TypeError("no key event")
    return KeyChainEvent(
        event_id=event_id, device_id=device_id, public_key=public_key, recorded_at=recorded_at
    )
