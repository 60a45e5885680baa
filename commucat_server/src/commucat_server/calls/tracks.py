"""Media tracks of calls as they are stored: what devices announce, and the statistics that they send."""

from collections.abc import Iterator
from typing import Any

import attrs

from commucat_proto import json_text
from commucat_proto.calls import (
    AudioParameters,
    CallMediaProfile,
    CallStats,
    MediaStreamStats,
    VideoParameters,
)
from commucat_storage import MediaTrack

_MOST_TEXT = 64
"""Characters of a text of the client that is kept."""


def announced(call_id: str, device_id: str, media: CallMediaProfile, now: int) -> Iterator[MediaTrack]:
    """What a device says that it will send. ``now``: Unix seconds."""
    audio, video = media.audio, media.video
    yield _track(
        call_id, device_id, "audio", "send", now, audio.codec.value, audio.bitrate, params=_audio(audio)
    )
    if video is not None:
        yield _track(
            call_id,
            device_id,
            "video",
            "send",
            now,
            video.codec.value,
            video.max_bitrate,
            params=_video(video),
        )


def measured(device_id: str, stats: CallStats, now: int) -> Iterator[MediaTrack]:
    """What a device says of its streams in one direction."""
    for kind, stream in (("audio", stats.audio), ("video", stats.video)):
        if stream is not None:
            codec = stream.codec
            yield _track(
                stats.call_id,
                device_id,
                kind,
                stats.direction.value,
                now,
                codec if codec is not None and _is_plain(codec) else None,
                stream.bitrate,
                stats=_stats(stream),
            )


def merged(before: MediaTrack, after: MediaTrack) -> MediaTrack:
    """One track out of two of the same key: what the later one does not tell is as it was."""
    return attrs.evolve(
        after,
        codec=before.codec if after.codec is None else after.codec,
        bitrate=before.bitrate if after.bitrate is None else after.bitrate,
        params=before.params if after.params == "{}" else after.params,
        stats=before.stats if after.stats == "{}" else after.stats,
        created_at=before.created_at,
    )


def _track(
    call_id: str,
    device_id: str,
    kind: str,
    direction: str,
    now: int,
    codec: str | None,
    bitrate: int,
    *,
    params: dict[str, Any] | None = None,
    stats: dict[str, Any] | None = None,
) -> MediaTrack:
    return MediaTrack(
        call_id=call_id,
        device_id=device_id,
        kind=kind,
        direction=direction,
        codec=codec,
        bitrate=bitrate,
        params=json_text.dumps(params or {}).decode(),
        stats=json_text.dumps(stats or {}).decode(),
        created_at=now,
        updated_at=now,
    )


def _audio(audio: AudioParameters) -> dict[str, Any]:
    return {
        "sample_rate": audio.sample_rate,
        "channels": audio.channels,
        "fec": audio.fec,
        "dtx": audio.dtx,
        "source": audio.source.value,
    }


def _video(video: VideoParameters) -> dict[str, Any]:
    return {
        "width": video.max_resolution.width,
        "height": video.max_resolution.height,
        "frame_rate": video.frame_rate,
        "adaptive": video.adaptive,
        "source": video.source.value,
    }


def _stats(stream: MediaStreamStats) -> dict[str, Any]:
    told = {
        "packet_loss": stream.packet_loss,
        "jitter_ms": stream.jitter_ms,
        "rtt_ms": stream.rtt_ms,
        "frames_per_second": stream.frames_per_second,
        "key_frames": stream.key_frames,
    }
    return {name: value for name, value in told.items() if value is not None}


def _is_plain(text: str) -> bool:
    # Not every text that JSON can carry is one that every database can.
    return 0 < len(text) <= _MOST_TEXT and text.isprintable()
