"""Hints that wait to be published."""

import math
from collections import deque
from typing import Final

from commucat_storage.bus import ALL_NODES, MAX_HINT_BYTES, MAX_HINTS
from commucat_storage.redis.connection import Reply
from commucat_storage.redis.health import Health
from commucat_storage.redis.link import Command, Link
from commucat_storage.redis.trouble import TroubleError

MAX_TAKEN: Final = 500


def channel_of(database: int, node: str) -> str:
    """The channel of a node's hints. Channels do not belong to a database by themselves, as keys do."""
    return f"commucat:{database}:nodes" if node == ALL_NODES else f"commucat:{database}:node:{node}"


class HintOutbox:
    """A :class:`Source` of PUBLISH commands; bounded, the oldest are dropped."""

    def __init__(self, link: Link, health: Health, database: int) -> None:
        self._link = link
        self._counters = health.counters
        self._database = database
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._bytes = 0

    def put(self, node: str, hint: bytes) -> None:
        """Send it as soon as there is a connection."""
        self._waiting.append((node, hint))
        self._bytes += len(hint)
        while len(self._waiting) > MAX_HINTS or self._bytes > MAX_HINT_BYTES:
            self._pop()
            self._counters.hints_dropped += 1
        self._link.wake()

    def _pop(self) -> tuple[str, bytes]:
        node, hint = self._waiting.popleft()
        self._bytes -= len(hint)
        return node, hint

    def _sent(self, reply: Reply) -> None:
        if isinstance(reply, Exception):
            self._counters.hints_dropped += 1
        else:
            self._counters.hints_sent += 1

    # -- for the link ---------------------------------------------------------------------------------

    def take(self, now: float) -> list[Command]:
        taken: list[Command] = []
        while self._waiting and len(taken) < MAX_TAKEN:
            node, hint = self._pop()
            taken.append(Command(("PUBLISH", channel_of(self._database, node), hint), self._sent))
        return taken

    def next_time(self) -> float:
        return math.inf

    def connected(self) -> None:
        pass

    def disconnected(self, trouble: TroubleError) -> None:
        pass  # what waits is sent late, which is better than never
