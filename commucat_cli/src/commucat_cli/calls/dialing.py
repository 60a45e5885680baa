"""This device calls others."""

import secrets
import time
from typing import Final

import attrs
import trio

from commucat_cli.calls.exchange import ask, join, knows_call_media, why
from commucat_cli.calls.party_keys import PartyKeys
from commucat_cli.calls.signalling import Call, CallEvent
from commucat_cli.calls.talk import LinePlan
from commucat_cli.client.answers import Refusal
from commucat_cli.client.channels import derive_call_channel
from commucat_cli.client.connection import Connection
from commucat_cli.client.peers import PeerDirectory
from commucat_cli.errors import CliError
from commucat_cli.profile import Profile
from commucat_proto.calls import CallEnd, CallOffer, EndReason

MAX_ATTEMPTS: Final = 16
"""Channels to try; every one of them taken is no coincidence any more."""


@attrs.frozen(kw_only=True)
class Offered:
    """A call that the server has, with what happened at once."""

    call: Call
    channel: int
    keys: PartyKeys
    refusals: tuple[Refusal, ...]
    events: list[CallEvent]


class Dialer:
    """Asks the devices of a plan into a call, again when a session ended before the server had answered."""

    def __init__(self, profile: Profile, plan: LinePlan) -> None:
        self._profile = profile
        self._plan = plan
        self._own = profile.keys.device_id
        self._unanswered: tuple[int, str] | None = None
        """The channel of an offer whose answer is not known, and the call's id: it may ring."""

    async def dial(self, connection: Connection, directory: PeerDirectory) -> Offered:
        """Offer the call on the first channel that all devices have free.

        Raises:
            CliError: one of them does not exist or changed its key, nobody can be reached, or the session
                ended.
        """
        await self._withdraw(connection)
        to, state = self._plan.to, self._profile.state
        first = state.channel_attempt(to[0]) if len(to) == 1 else 0
        for attempt in range(first, MAX_ATTEMPTS):
            offered = await self._offer_on(
                derive_call_channel((self._own, *to), attempt), connection, directory
            )
            if offered is not None:
                if len(to) == 1 and attempt != first:
                    state.save_channel_attempt(to[0], attempt)
                return offered
        raise CliError(f"{', '.join(to)}: {MAX_ATTEMPTS} channels in a row are used otherwise")

    async def _withdraw(self, connection: Connection) -> None:
        """End what an earlier session may have begun, or everybody would be busy with it."""
        if self._unanswered is not None:
            await self._cancel(connection, *self._unanswered)
            self._unanswered = None

    async def _cancel(self, connection: Connection, channel: int, call_id: str) -> None:
        end = CallEnd(call_id=call_id, reason=EndReason.CANCEL, metadata={"device": self._own})
        await ask(connection, channel, end)

    async def _offer_on(
        self, channel: int, connection: Connection, directory: PeerDirectory
    ) -> Offered | None:
        """None when somebody uses the channel for another conversation."""
        own, plan, to = self._own, self._plan, self._plan.to
        call_id = secrets.token_hex(16)
        keys = PartyKeys(call_id, channel, self._profile.keys)
        # In any case: it says, better than the server's refusal, that a device does not exist.
        sealed = await keys.sealed_for(directory, to)
        await join(connection, channel, to)
        offer = CallOffer(
            call_id=call_id,
            sender=own,
            to=to,
            media=plan.media,
            metadata={"keys": dict(sealed)} if knows_call_media(connection) else None,
            expires_at=int(time.time() + plan.ring_timeout),
        )
        call = Call.outgoing(call_id, own, to, deadline=trio.current_time() + plan.ring_timeout)
        self._unanswered = channel, call_id
        answer = await ask(connection, channel, offer)
        self._unanswered = None
        refused = {refusal.device: refusal.reason for refusal in answer.refused}
        if answer.error == "channel_conflict":
            return None
        if "channel_conflict" in refused.values():
            # It rings at some already: all of them are to be in the same call.
            await self._cancel(connection, channel, call_id)
            return None
        busy = {device for device, reason in refused.items() if reason == "busy"}
        if answer.error == "busy":
            busy = set(to)
        elif answer.error is not None:
            raise CliError(f"the server does not pass the call to {', '.join(to)}: {why(answer)}")
        events = call.offered(refused.keys() | busy, busy=busy)
        return Offered(call=call, channel=channel, keys=keys, refusals=answer.refused, events=events)
