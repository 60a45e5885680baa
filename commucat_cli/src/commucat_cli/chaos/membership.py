"""When a device was a member of a group, as far as the clients' own records can tell.

The server decides a change somewhere between its frame was sent and its answer arrived; a change
without an answer may take effect at any later time, or never.
"""

from collections import defaultdict
from collections.abc import Iterable
from math import inf

import attrs

from commucat_cli.chaos.history import Answered, Sent
from commucat_cli.chaos.steps import GroupEvent


@attrs.frozen
class _Moment:
    """A change that took effect between two times, for sure or perhaps."""

    start: float
    end: float
    sure: bool


class Memberships:
    """Who was in which group over an interval, both ends included."""

    def __init__(self, attempts: Iterable[tuple[Sent, Answered | None]]) -> None:
        """``attempts``: everything sent, with its answer; what changes no group is passed over."""
        self._came: dict[tuple[str, str], list[_Moment]] = defaultdict(list)
        self._went: dict[tuple[str, str], list[_Moment]] = defaultdict(list)
        self._devices: dict[str, set[str]] = defaultdict(set)
        asked = [(sent, answer) for sent, answer in attempts if sent.change is not None]
        # An id is its owner's alone, so "exists already" says that an earlier attempt has worked.
        existing = {
            sent.group: answer.at
            for sent, answer in asked
            if answer is not None and answer.error == "group_exists"
        }
        for sent, answer in asked:
            if answer is None:
                known = existing.get(sent.group) if _creates(sent) else None
                self._note(sent, _Moment(sent.at, known or inf, known is not None))
            elif answer.error is None:
                self._note(sent, _Moment(sent.at, answer.at, True))

    def _note(self, sent: Sent, moment: _Moment) -> None:
        assert sent.change is not None
        assert sent.group is not None
        match sent.change.event:
            case GroupEvent.CREATE.value:
                devices, changes = (*sent.change.devices, sent.message.sender), self._came
            case GroupEvent.INVITE.value:
                devices, changes = sent.change.devices, self._came
            case GroupEvent.REMOVE.value | GroupEvent.LEAVE.value:
                devices, changes = sent.change.devices, self._went
            case _:
                return
        self._devices[sent.group].update(devices)
        for device in devices:
            changes[sent.group, device].append(moment)

    def surely_in(self, group: str, start: float, end: float) -> frozenset[str]:
        """Members all the while."""
        return frozenset(device for device in self._devices[group] if self._holds(group, device, start, end))

    def _holds(self, group: str, device: str, start: float, end: float) -> bool:
        return _certain(self._came[group, device], self._went[group, device], start, end)

    def surely_out(self, group: str, device: str, start: float, end: float) -> bool:
        """Whether the device was no member at any time in between."""
        came, went = self._came[group, device], self._went[group, device]
        return all(moment.start > end for moment in came) or _certain(went, came, start, end)


def _creates(sent: Sent) -> bool:
    return sent.change is not None and sent.change.event == GroupEvent.CREATE.value


def _certain(changes: list[_Moment], opposite: list[_Moment], start: float, end: float) -> bool:
    """One of ``changes`` was over before ``start``, and nothing undid it until ``end``."""
    return any(
        change.sure
        and change.end < start
        and all(other.end < change.start or other.start > end for other in opposite)
        for change in changes
    )
