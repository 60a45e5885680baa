"""Which layer of a sender's video each receiver gets, and when its sender is asked for a key frame.

A receiver comes in, or goes from one layer to another, with a key frame of that layer and with nothing else.
Until it comes the receiver *waits* for the one stream and gets what it got before.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from commucat_proto.calls import KeyFrameRequest, StreamKind
from commucat_server.calls.forwarding.stream import SILENT_AFTER, Participant, Stream

AIM_INTERVAL: Final = 0.25
"""Seconds between two looks at which layers a sender still sends."""
KEY_FRAME_INTERVAL: Final = 1.0
"""Seconds between two requests to one sender, whoever wants a key frame: one serves all who wait."""


def aim(sender: Participant, receivers: Iterable[Participant], now: float) -> None:
    """Decide anew for everybody what of this sender's video is for them."""
    sender.next_aim = now + AIM_INTERVAL
    streams = sender.sent(StreamKind.VIDEO)
    live = [each for each in streams if now - each.heard < SILENT_AFTER]
    live.sort(key=lambda each: (each.layer, each.since))
    reached: dict[Stream, list[Participant]] = {each: [] for each in streams}
    for each in streams:
        each.waiting = []
    for receiver in receivers:
        if receiver is sender:
            continue
        target = _target(receiver, sender, live)
        view = receiver.views.get(sender.device_id)
        if target is None:
            # Paused: what comes later starts with a key frame again. Nothing live: it keeps what it had.
            if live or not receiver.present:
                view = None
        elif target is not view:
            if target.gated:
                target.waiting.append(receiver)
                sender.key_frame_wanted = True
            else:
                view = target
                target.entered += 1
        if view is None or view not in reached:
            receiver.views.pop(sender.device_id, None)
        else:
            receiver.views[sender.device_id] = view
            reached[view].append(receiver)
    for stream, found in reached.items():
        stream.goes_to(found)


def admit(stream: Stream) -> None:
    """A key frame of the stream is here: those who waited for it get it, and nothing else of that sender."""
    owner = stream.owner
    if stream.waiting:
        _switch(stream)
    owner.key_frame_wanted = any(each.waiting for each in owner.streams.values())


def _switch(stream: Stream) -> None:
    owner = stream.owner
    for receiver in stream.waiting:
        before = receiver.views.get(owner.device_id)
        if before is not None:
            before.loses(receiver)
        receiver.views[owner.device_id] = stream
    stream.goes_to([*stream.receivers, *stream.waiting])
    stream.entered += 1
    stream.waiting = []


def key_frame_request(sender: Participant, now: float) -> KeyFrameRequest | None:
    """The request that the sender is due, if somebody waits or has asked."""
    if not sender.key_frame_wanted or now < sender.key_frame_due:
        return None
    sender.key_frame_wanted = False
    if not sender.streams:
        return None  # Packets of version 1 only: such a client knows no requests.
    sender.key_frame_due = now + KEY_FRAME_INTERVAL
    return KeyFrameRequest(device=sender.device_id)


def _target(receiver: Participant, sender: Participant, live: Sequence[Stream]) -> Stream | None:
    """The best that the receiver wants: the highest layer up to its own; if all are above, the lowest."""
    highest = receiver.highest_layer_of(sender.device_id)
    if highest is None or not receiver.present or not live:
        return None
    fitting = [each for each in live if each.layer <= highest]
    if fitting:
        return fitting[-1]
    # A sender may send one stream only, and call it what it likes.
    return next(each for each in reversed(live) if each.layer == live[0].layer)
