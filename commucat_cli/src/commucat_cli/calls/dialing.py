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
from commucat_proto.calls import CallOffer

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


async def offer_call(
    profile: Profile, plan: LinePlan, connection: Connection, directory: PeerDirectory
) -> Offered:
    """Ask the devices of the plan into a call, on the first channel that all of them have free.

    Raises:
        CliError: one of them does not exist or changed its key, nobody can be reached, or the session ended.
    """
    own, to = profile.keys.device_id, plan.to
    first = profile.state.channel_attempt(to[0]) if len(to) == 1 else 0
    for attempt in range(first, MAX_ATTEMPTS):
        offered = await _offer_on(
            derive_call_channel((own, *to), attempt), profile, plan, connection, directory
        )
        if offered is not None:
            if len(to) == 1 and attempt != first:
                profile.state.save_channel_attempt(to[0], attempt)
            return offered
    raise CliError(f"{', '.join(to)}: {MAX_ATTEMPTS} channels in a row are used otherwise")


async def _offer_on(
    channel: int, profile: Profile, plan: LinePlan, connection: Connection, directory: PeerDirectory
) -> Offered | None:
    """None when somebody uses the channel for another conversation."""
    own, to = profile.keys.device_id, plan.to
    call_id = secrets.token_hex(16)
    keys = PartyKeys(call_id, channel, profile.keys)
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
    answer = await ask(connection, channel, offer)
    refused = {refusal.device: refusal.reason for refusal in answer.refused}
    if answer.error == "channel_conflict":
        return None
    if "channel_conflict" in refused.values():
        # It rings at some already: all of them are to be in the same call.
        farewell = call.hang_up()
        assert farewell is not None
        await ask(connection, channel, farewell)
        return None
    busy = {device for device, reason in refused.items() if reason == "busy"}
    if answer.error == "busy":
        busy = set(to)
    elif answer.error is not None:
        raise CliError(f"the server does not pass the call to {', '.join(to)}: {why(answer)}")
    events = call.offered(refused.keys() | busy, busy=busy)
    return Offered(call=call, channel=channel, keys=keys, refusals=answer.refused, events=events)
