"""Calls that an earlier process, or a node that is no more, has left in the store."""

import trio

from commucat_server.calls.board import CallBoard
from commucat_server.routing.registry import Registry
from commucat_storage import CallRow, Storage

_STEP = 500
_MOST_OPEN = 100_000


async def recover(
    board: CallBoard, storage: Storage, registry: Registry, node: str, wall: float, *, first: bool
) -> int:
    """Put calls that nobody ends onto the board as this node's; how many it did not know before.

    Who is in one and not connected here has the usual time to come back, to this node or to another.
    ``first``: also learn of the calls of other nodes, and of those whose claim had no answer. ``wall``: Unix
    seconds.

    Raises:
        StorageError: the store failed; to be called again as the first time.
    """
    before = len(board)
    found = await storage.claim_calls(node, limit=_STEP)
    while found:
        for row in found:
            _take_over(board, registry, row, wall)
        found = await storage.claim_calls(node, limit=_STEP) if len(found) == _STEP else ()
    if first:
        for row in await storage.claim_calls(node, own=True, limit=_MOST_OPEN):
            _take_over(board, registry, row, wall)
    recovered = len(board) - before
    if first:
        for row in await storage.open_calls(limit=_MOST_OPEN):
            if row.node != node:
                board.restore(row, home=False, now=trio.current_time(), wall=wall)
    return recovered


def _take_over(board: CallBoard, registry: Registry, row: CallRow, wall: float) -> None:
    now = trio.current_time()
    call = board.restore(row, home=True, now=now, wall=wall)
    for device_id in call.joined:
        if registry.receiver(device_id) is None:
            board.go_away(call, device_id, now)
