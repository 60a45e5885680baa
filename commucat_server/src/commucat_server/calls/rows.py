"""Keeps the store's rows of calls up to date, behind the calls and never in their way.

Of each call that has changed only the newest state waits, so what waits is bounded by the calls there are.
If too many that are over wait, new calls are refused, see :attr:`CallRows.behind`.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import NoReturn, TypeVar

import structlog
import trio

from commucat_server.calls.call import Call
from commucat_server.calls.limits import CallLimits
from commucat_server.calls.tracks import merged
from commucat_server.ops.counters import Counters
from commucat_storage import CallRow, MediaTrack, Storage, StorageError

log = structlog.get_logger("commucat.calls")

TRACKS_INTERVAL = 5.0
"""Seconds for which statistics gather before they are written, unless a call changes before."""
RETRY_INTERVAL = 1.0
PURGE_INTERVAL = 60.0
MAX_OVER = 10_000
"""Calls that are over and may wait for the store; beyond, no call begins."""
_STEP_CALLS = 500
_STEP_TRACKS = 2_000


_Key = TypeVar("_Key")
_State = TypeVar("_State")


class CallRows:
    """A listener of the board that writes rows of this node's calls, and tracks of devices here."""

    def __init__(
        self, storage: Storage, node: str, limits: CallLimits, clock: Callable[[], float], counters: Counters
    ) -> None:
        self._storage = storage
        self._node = node
        self._limits = limits
        self._clock = clock
        self._counters = counters
        self._changed: dict[str, tuple[Call, int]] = {}
        self._changes = 0
        self._over: dict[str, CallRow] = {}
        self._tracks: dict[tuple[str, str, str, str], MediaTrack] = {}
        self._wake = trio.Event()
        self._purged_at = -PURGE_INTERVAL
        self._failing = False

    @property
    def waiting(self) -> int:
        """Calls whose newest state is not stored yet."""
        return len(self._changed) + len(self._over)

    @property
    def behind(self) -> bool:
        """Whether so many calls that are over wait for the store that no more should begin."""
        return len(self._over) >= MAX_OVER

    # -- from the board --------------------------------------------------------------------------------

    def on_joined(self, call: Call, device_id: str) -> None:
        now = self._now()
        call.started_at = call.started_at or now
        if device_id != call.initiator and call.answered_at is None:
            call.answered_at = now
        self.note(call)

    def on_left(self, call: Call, device_id: str) -> None:
        self.note(call)

    def on_over(self, call: Call) -> None:
        self._changed.pop(call.call_id, None)
        if call.home:
            call.ended_at = self._now()
            self._over[call.call_id] = self._row(call)
            self._wake.set()

    def note(self, call: Call) -> None:
        """Something of the call has changed."""
        if call.home and call.stored and call.ended_at is None:
            self._changes += 1
            self._changed[call.call_id] = (call, self._changes)
            self._wake.set()

    def track(self, tracks: Iterable[MediaTrack]) -> None:
        """What devices of running calls announce or report."""
        for track in tracks:
            key = (track.call_id, track.device_id, track.kind, track.direction)
            before = self._tracks.get(key)
            self._tracks[key] = track if before is None else merged(before, track)

    # -- writing ---------------------------------------------------------------------------------------

    async def run(self) -> NoReturn:
        """Writes what has changed; cancelled, it tries once more to write what waits."""
        try:
            while True:
                with trio.move_on_after(TRACKS_INTERVAL):
                    await self._wake.wait()
                self._wake = trio.Event()
                try:
                    await self.flush()
                    await self._purge()
                except StorageError as exc:
                    self._counters.call_writes_failed += 1
                    if not self._failing:
                        log.warning("calls not stored, trying again", waiting=self.waiting, reason=str(exc))
                    self._failing = True
                    await trio.sleep(RETRY_INTERVAL)
                    self._wake.set()
                else:
                    self._failing = False
        finally:
            with trio.move_on_after(RETRY_INTERVAL, shield=True):
                await self._last_flush()

    async def flush(self) -> None:
        """Write everything that has changed, in bounded steps.

        Raises:
            StorageError: the store failed; what was not written waits.
        """
        while self._changed or self._over or self._tracks:
            over = dict(islice(self._over.items(), _STEP_CALLS))
            changed = dict(islice(self._changed.items(), _STEP_CALLS - len(over)))
            # A track without its call would be left out: all calls go first.
            rest = len(over) + len(changed) < self.waiting
            tracks = {} if rest else dict(islice(self._tracks.items(), _STEP_TRACKS))
            rows = [*over.values(), *(self._row(call) for call, _ in changed.values())]
            await self._storage.store_calls(rows, list(tracks.values()))
            if over and not self._limits.keep:
                await self._storage.purge_calls(self._now())
            # What has changed meanwhile waits for the next step.
            _forget(self._over, over)
            _forget(self._changed, changed)
            _forget(self._tracks, tracks)

    async def _purge(self) -> None:
        if trio.current_time() - self._purged_at >= PURGE_INTERVAL:
            await self._storage.purge_calls(self._now() - self._limits.keep)
            self._purged_at = trio.current_time()

    async def _last_flush(self) -> None:
        try:
            await self.flush()
        except StorageError as exc:
            log.warning("calls not stored at the end", waiting=self.waiting, reason=str(exc))

    def _row(self, call: Call) -> CallRow:
        everybody = call.participants | call.came | call.gone
        now = self._now()
        return CallRow(
            call_id=call.call_id,
            channel=call.channel,
            group_id=call.group_id,
            initiator=call.initiator,
            mode=call.mode,
            video=call.video,
            participants=(call.initiator, *sorted(everybody - {call.initiator})),
            accepted=tuple(sorted(call.came)),
            gone=tuple(sorted(call.gone)),
            node=self._node,
            started_at=call.started_at or now,
            answered_at=call.answered_at,
            ended_at=call.ended_at,
            end_reason=call.end_reason or None,
            ended_by=call.ended_by or None,
            last_update=now,
        )

    def _now(self) -> int:
        return int(self._clock())


def _forget(waiting: dict[_Key, _State], written: dict[_Key, _State]) -> None:
    for key, state in written.items():
        if waiting.get(key) is state:
            del waiting[key]
