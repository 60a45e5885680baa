"""``commucat-cli calls``: which calls there are, and what is known of those that are over."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from commucat_cli.commands.operator.on_store import check_device, on_store
from commucat_cli.commands.operator.operator_options import DeviceOption, LimitOption
from commucat_cli.commands.operator.settings import ConfigFile, DataDirectory
from commucat_cli.commands.options import JsonOption
from commucat_cli.commands.outcome import finish
from commucat_cli.commands.results import Row, moment, print_values, show_rows
from commucat_server.config import ServerConfig
from commucat_storage import CallRow, MediaTrack, Storage


def calls(
    everything: Annotated[
        bool, typer.Option("--all", help="Also calls that are over, as long as the store keeps them.")
    ] = False,
    device: DeviceOption = None,
    limit: LimitOption = 1000,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """List the calls that ring or go on, the newest first.

    With --json also who takes part, and what each device sends and receives. How long a call that is over
    is kept says calls.keep.
    """

    def command() -> int:
        async def work(storage: Storage, _: ServerConfig) -> tuple[Sequence[CallRow], Sequence[MediaTrack]]:
            await check_device(storage, device)
            rows = await storage.list_calls(limit=limit, ended=everything, device_id=device)
            return rows, await storage.media_tracks([row.call_id for row in rows]) if as_json else ()

        rows, tracks = on_store(config, data_dir, work)
        if as_json:
            of_call: dict[str, list[MediaTrack]] = {}
            for track in tracks:
                of_call.setdefault(track.call_id, []).append(track)
            found = [_document(row, of_call.get(row.call_id, ())) for row in rows]
            print_values({"calls": found}, as_json=True)
        else:
            show_rows([_line(row) for row in rows])
        return 0

    finish(command)


def _line(row: CallRow) -> Row:
    return {
        "call": row.call_id,
        "state": _state(row),
        "channel": row.channel,
        "initiator": row.initiator,
        "video": row.video,
        "called": len(row.participants) - 1,
        "came": len(row.accepted),
        "in_call": len(row.joined) if row.ended_at is None else 0,
        "started_at": moment(row.started_at),
        "answered_at": moment(row.answered_at),
        "ended_at": moment(row.ended_at),
        "seconds": None if row.ended_at is None else max(0, row.ended_at - row.started_at),
        "reason": row.end_reason,
        "ended_by": row.ended_by,
    }


def _document(row: CallRow, tracks: Sequence[MediaTrack]) -> dict[str, Any]:
    return {
        **_line(row),
        "mode": row.mode,
        "group": row.group_id,
        "node": row.node,
        "participants": list(row.participants),
        "accepted": list(row.accepted),
        "gone": list(row.gone),
        "tracks": [
            {
                "device": track.device_id,
                "kind": track.kind,
                "direction": track.direction,
                "codec": track.codec,
                "bitrate": track.bitrate,
                "params": json.loads(track.params),
                "stats": json.loads(track.stats),
                "updated_at": moment(track.updated_at),
            }
            for track in tracks
        ],
    }


def _state(row: CallRow) -> str:
    if row.ended_at is not None:
        return "over"
    return "ringing" if row.answered_at is None else "running"
