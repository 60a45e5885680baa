"""What nodes tell each other, as bytes: a JSON head, and a frame's payload behind a line feed.

A hint makes known sooner what is in the store anyway, or carries a live frame, which is worth nothing
later. One that cannot be read comes from another version of the program, and is passed over.
"""

import enum
from collections.abc import Mapping
from typing import Any, TypeAlias

import attrs

from commucat_proto import MAX_CHANNEL_ID, FrameType, json_text


@attrs.frozen
class NewRows:
    """Messages were committed: device, highest inbox number."""

    heads: Mapping[str, int]


@attrs.frozen
class Claimed:
    """The device has a newer session on another node."""

    device_id: str
    claim: int


@attrs.frozen
class LiveFrame:
    """A live frame for devices with sessions on this node."""

    devices: tuple[str, ...]
    frame_type: FrameType
    channel: int
    payload: bytes = attrs.field(repr=False)


@attrs.frozen
class HowAre:
    """A device that has just come to ``node`` wants to know how these are."""

    node: str
    device_id: str
    peers: tuple[str, ...]


@attrs.frozen
class NewPeers:
    """These devices have new peers: whoever has one tells them of each other."""

    devices: tuple[str, ...]


@attrs.frozen
class CallRings:
    """A call's offer is stored: what other nodes must know to take part. Large groups come in portions."""

    call_id: str
    channel: int
    initiator: str
    mode: str
    video: bool
    invited: tuple[str, ...]


class CallChange(enum.Enum):
    """What became of a call."""

    ACCEPTED = "accepted"
    DECLINED = "declined"
    HEARD = "heard"
    """It goes on."""
    AWAY = "away"
    """A device that is in it is not connected any more; it has some time to come back."""
    BACK = "back"
    OVER = "over"


@attrs.frozen
class CallMoved:
    """A change of a call; ``device_id`` is whose it is, and empty for one of the server itself."""

    call_id: str
    change: CallChange
    device_id: str = ""
    reason: str = ""
    """Why a device declined, or the call is over."""


@attrs.frozen
class CallMedia:
    """Media of a device in a call on ``node``, for those on this node whom it may send to."""

    call_id: str
    sender: str
    node: str
    devices: tuple[str, ...]
    frame_type: FrameType
    payload: bytes = attrs.field(repr=False)


@attrs.frozen
class PeerNews:
    """For the node that carries to other servers: something waits for this domain, or its peer was
    ``heard``."""

    domain: str
    heard: bool


# A durable frame is numbered by its inbox, and comes from nowhere else.
_LIVE = frozenset(
    {
        FrameType.TYPING,
        FrameType.PRESENCE,
        FrameType.VOICE_FRAME,
        FrameType.VIDEO_FRAME,
        FrameType.CALL_STATS,
        FrameType.TRANSPORT_UPDATE,
    }
)

_MEDIA = frozenset({FrameType.VOICE_FRAME, FrameType.VIDEO_FRAME})

Hint: TypeAlias = (
    NewRows | Claimed | LiveFrame | HowAre | NewPeers | CallRings | CallMoved | CallMedia | PeerNews
)


def encode_hint(hint: Hint) -> bytes:
    """The bytes of a hint."""
    match hint:
        case NewRows(heads):
            return json_text.dumps({"rows": dict(heads)})
        case Claimed(device_id, claim):
            return json_text.dumps({"claimed": device_id, "claim": claim})
        case LiveFrame(devices, frame_type, channel, payload):
            names: list[Any] = list(devices)
            head = json_text.dumps({"live": names, "type": int(frame_type), "channel": channel})
            return head + b"\n" + payload
        case NewPeers(devices):
            return json_text.dumps({"peers": list(devices)})
        case CallRings():
            return json_text.dumps({**attrs.asdict(hint), "ring": list(hint.invited), "invited": None})
        case CallMoved(call_id, change, device_id, reason):
            return json_text.dumps(
                {"call": call_id, "change": change.value, "device": device_id, "reason": reason}
            )
        case CallMedia(call_id, sender, node, devices, frame_type, payload):
            names = list(devices)
            value: dict[str, Any] = {
                "media": call_id,
                "from": sender,
                "node": node,
                "to": names,
                "type": int(frame_type),
            }
            return json_text.dumps(value) + b"\n" + payload
        case PeerNews(domain, heard):
            return json_text.dumps({"domain": domain, "heard": heard})
        case HowAre(node, device_id, peers):
            return json_text.dumps({"how": list(peers), "device": device_id, "node": node})


def decode_hint(data: bytes) -> Hint | None:
    """The hint, or None for one that this version does not know."""
    head, _, payload = data.partition(b"\n")
    try:
        value: Any = json_text.loads(head)
        match value:
            case {"rows": dict(heads)}:
                return NewRows({str(device): int(number) for device, number in heads.items()})
            case {"claimed": str(device_id), "claim": int(claim)}:
                return Claimed(device_id, claim)
            case {"live": list(devices), "type": int(frame_type), "channel": int(channel)} if (
                frame_type in _LIVE and 0 <= channel <= MAX_CHANNEL_ID
            ):
                return LiveFrame(tuple(map(str, devices)), FrameType(frame_type), channel, payload)
            case {
                "media": str(call_id),
                "from": str(sender),
                "node": str(node),
                "to": list(devices),
                "type": int(frame_type),
            } if frame_type in _MEDIA:
                return CallMedia(
                    call_id, sender, node, tuple(map(str, devices)), FrameType(frame_type), payload
                )
            case {"how": list(peers), "device": str(device_id), "node": str(node)}:
                return HowAre(node, device_id, tuple(map(str, peers)))
            case {"peers": list(devices)}:
                return NewPeers(tuple(map(str, devices)))
            case {"domain": str(domain), "heard": bool(heard)}:
                return PeerNews(domain, heard)
            case {"call": str(call_id), "change": str(change), "device": str(device_id)}:
                return CallMoved(call_id, CallChange(change), device_id, str(value.get("reason", "")))
            case {
                "ring": list(invited),
                "call_id": str(call_id),
                "channel": int(channel),
                "initiator": str(initiator),
                "mode": str(mode),
                "video": bool(video),
            }:
                return CallRings(call_id, channel, initiator, mode, video, tuple(map(str, invited)))
    except (ValueError, TypeError):
        pass
    return None
