"""Others call this device."""

import attrs
import trio

from commucat_cli.calls.exchange import GONE, JoinRefusedError, ask, join, knows_call_media, why
from commucat_cli.calls.party_keys import PartyKeys, UnprovedError
from commucat_cli.calls.signalling import Call
from commucat_cli.calls.talk import LinePlan
from commucat_cli.client.addresses import is_address
from commucat_cli.client.connection import Connection
from commucat_cli.client.peers import PeerDirectory
from commucat_cli.client.session import Notice
from commucat_cli.errors import PeerKeyError
from commucat_cli.profile import Profile
from commucat_proto.calls import CallAnswer, CallOffer, RejectReason
from commucat_proto.json_text import JsonValue


@attrs.frozen(kw_only=True)
class Answered:
    """A call that this device is in, or has declined."""

    call: Call
    channel: int
    keys: PartyKeys
    encrypted: bool


async def take_offer(
    profile: Profile,
    plan: LinePlan,
    connection: Connection,
    directory: PeerDirectory,
    channel: int,
    offer: CallOffer,
    notice: Notice,
) -> Answered | None:
    """Answer an offer as the plan says; None when it is not a call to wait for, or over already.

    Raises:
        CliError: the session ended.
    """
    caller = offer.sender
    if plan.to or not is_address(caller) or not caller.isprintable():
        return None
    keys = PartyKeys(offer.call_id, channel, profile.keys)
    try:
        proved = await keys.learn(directory, offer.metadata)
    except (UnprovedError, PeerKeyError) as exc:
        notice(f"a call that claims to come from device {caller} was left out: {exc}")
        return None
    if proved not in (None, caller):
        notice(f"a call that claims to come from device {caller} was sealed by {proved}; it was left out")
        return None
    if plan.caller not in (None, caller):
        if await refuse(profile, connection, channel, offer, RejectReason.DECLINE):
            notice(f"device {caller} calls and was told no: it is not the one that is waited for")
        return None
    encrypted = proved is not None and knows_call_media(connection)
    if not encrypted and not plan.allow_clear:
        # Anybody can call like that; it must not end this device's waiting for others.
        if await refuse(profile, connection, channel, offer, RejectReason.UNSUPPORTED):
            notice(
                f"device {caller} calls without end-to-end encryption and was told no; "
                "--allow-unencrypted permits it"
            )
        return None
    deadline = trio.current_time() + plan.ring_timeout
    call = Call.incoming(offer, profile.keys.device_id, deadline=deadline)
    if not plan.accept:
        if not await refuse(profile, connection, channel, offer, RejectReason.DECLINE):
            return None
        call.decline(RejectReason.DECLINE)
        return Answered(call=call, channel=channel, keys=keys, encrypted=encrypted)
    metadata: dict[str, JsonValue] = {"device": profile.keys.device_id}
    try:
        await join(connection, channel, sorted(call.others))
        if encrypted:
            metadata["keys"] = dict(await keys.sealed_for(directory, call.others))
    except (JoinRefusedError, PeerKeyError) as exc:
        # Whoever calls may name anybody; that must not end this device's waiting.
        notice(f"the call of device {caller} was not taken: {exc}")
        return None
    accepting = CallAnswer(call_id=offer.call_id, accept=True, media=plan.media, metadata=metadata)
    answer = await ask(connection, channel, accepting)
    if answer.error is not None:
        if answer.error not in GONE:
            notice(f"the call of device {caller} was not taken: {why(answer)}")
        return None
    return Answered(call=call, channel=channel, keys=keys, encrypted=encrypted)


async def refuse(
    profile: Profile, connection: Connection, channel: int, offer: CallOffer, reason: RejectReason
) -> bool:
    """Tell those in the call that this device does not come; False if the call is over already.

    Raises:
        CliError: the session ended.
    """
    own = profile.keys.device_id
    others = sorted({offer.sender, *offer.to} - {own})
    # An answer travels along the device's own route. Where that cannot lead there, the call rings to its end.
    if (await connection.join(channel, others)).error is None:
        answer = CallAnswer(call_id=offer.call_id, accept=False, reason=reason, metadata={"device": own})
        return (await ask(connection, channel, answer)).error not in GONE
    return True
