"""Nodes, owners of sessions and leases. Times are those of the database, whose clock is the same for all."""

from collections.abc import Sequence

from commucat_storage.nodes import DEAD_AFTER, Held, Node, Standing
from commucat_storage.postgres.bus import LOOK, channel_of
from commucat_storage.postgres.connection import Connection
from commucat_storage.postgres.problems import Problems

STEP_DEVICES = 500
"""Devices of a dead node that one transaction gives free."""

# The row is locked by the transaction already; what stood there comes from the lock's own look at it.
_CLAIM = """UPDATE inbox_offset AS o SET owner_node = $2, owner_session = $3, owner_claim = o.owner_claim + 1
FROM (SELECT entity_id, owner_node FROM inbox_offset WHERE entity_id = $1 FOR NO KEY UPDATE) AS old
WHERE o.entity_id = old.entity_id RETURNING o.owner_claim, old.owner_node"""

_LOOK = """SELECT h.device, o.owner_claim, o.next_number - 1, o.epoch, d.status = 'active',
    o.owner_node IS NULL AND o.owner_claim = h.claim
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[]) AS h (device, claim, number, epoch)
JOIN inbox_offset AS o ON o.entity_id = h.device
JOIN user_device AS d ON d.opaque_id = h.device
WHERE o.owner_claim <> h.claim OR o.next_number - 1 > h.number OR o.epoch <> h.epoch
    OR d.status <> 'active' OR o.owner_node IS DISTINCT FROM $5"""

# In the order in which the journal locks them.
_CLAIMED = """FROM (
    SELECT o.entity_id FROM inbox_offset AS o
    JOIN unnest($1::text[], $2::bigint[]) AS c (device, claim)
        ON o.entity_id = c.device AND o.owner_claim = c.claim
    ORDER BY o.entity_id FOR NO KEY UPDATE OF o
) AS mine WHERE o.entity_id = mine.entity_id"""
_RELEASE = f"UPDATE inbox_offset AS o SET owner_node = NULL, owner_session = NULL {_CLAIMED}"  # noqa: S608
_CLAIM_BACK = f"UPDATE inbox_offset AS o SET owner_node = $3 {_CLAIMED} AND o.owner_node IS NULL"  # noqa: S608

_SWEEP = """WITH left_behind AS (
    SELECT entity_id FROM inbox_offset WHERE owner_node = $1
    ORDER BY entity_id LIMIT $2 FOR NO KEY UPDATE
)
UPDATE inbox_offset AS o SET owner_node = NULL, owner_session = NULL
FROM left_behind WHERE o.entity_id = left_behind.entity_id"""

# Skipped where another node takes the same one at this moment: that one has it.
_TAKE_LEASE = """WITH free AS (
    SELECT name FROM cluster_lease
    WHERE name = $1 AND (holder = $2 OR holder IS NULL OR until <= clock_timestamp())
    FOR UPDATE SKIP LOCKED
)
UPDATE cluster_lease AS l SET holder = $2, until = clock_timestamp() + $3::float8 * interval '1 second'
FROM free WHERE l.name = free.name"""


async def beat(connection: Connection, node: Node) -> None:
    """Say that the node lives; enter it, again if it was swept away."""
    await connection.execute(
        "INSERT INTO cluster_node (node, host, pid, identity) VALUES ($1, $2, $3, $4) "
        "ON CONFLICT (node) DO UPDATE SET seen_at = now()",
        node.node_id,
        node.host,
        node.pid,
        node.identity,
    )


async def enter(connection: Connection, node: Node, place: str) -> None:
    """Enter the node. ``place`` is for the error.

    Raises:
        StorageError: nodes of another server live on this database.
    """
    stranger = await connection.fetchval(
        "SELECT host FROM cluster_node WHERE identity <> $1 "
        "AND seen_at > now() - $2::float8 * interval '1 second' LIMIT 1",
        node.identity,
        DEAD_AFTER,
    )
    if stranger is not None:
        raise Problems.IDENTITY.at(place, stranger)
    await beat(connection, node)


async def leave(connection: Connection, node: str) -> None:
    """The node has ended in order."""
    await give_free(connection, node)
    await connection.execute("UPDATE cluster_lease SET holder = NULL WHERE holder = $1", node)
    await connection.execute("DELETE FROM cluster_node WHERE node = $1", node)


async def claim(connection: Connection, device_id: str, node: str, session: str) -> tuple[int, str | None]:
    """Make the node the owner of the device's live session; the claim's number, and whose it was.

    To be called in the transaction that has locked the device's inbox.
    """
    row = await connection.fetchrow(_CLAIM, device_id, node, session)
    assert row is not None, "a device has an inbox"
    return row[0], row[1]


async def release(connection: Connection, claims: Sequence[tuple[str, int]]) -> None:
    """Give up those that nobody has claimed since."""
    await connection.execute(
        _RELEASE,
        [device_id for device_id, _ in claims],
        [number for _, number in claims],
    )


async def look_after(connection: Connection, node: str, held: Sequence[Held]) -> tuple[Standing, ...]:
    """What is more, or otherwise, than the node knows. What was given free because the node seemed dead
    is claimed back."""
    rows = await connection.fetch(
        _LOOK,
        [each.device_id for each in held],
        [each.claim for each in held],
        [each.number for each in held],
        [each.epoch for each in held],
        node,
    )
    lost = [row for row in rows if row[5]]
    if lost:
        await connection.execute(
            _CLAIM_BACK,
            [row[0] for row in lost],
            [row[1] for row in lost],
            node,
        )
    return tuple(Standing(*row[:5]) for row in rows)


async def owners_of(connection: Connection, node: str, device_ids: Sequence[str]) -> dict[str, str]:
    """Device to node, of sessions on other nodes that live."""
    rows = await connection.fetch(
        "SELECT o.entity_id, o.owner_node FROM inbox_offset AS o "
        "JOIN cluster_node AS n ON n.node = o.owner_node "
        "WHERE o.entity_id = ANY ($1) AND o.owner_node <> $2 "
        "AND n.seen_at > now() - $3::float8 * interval '1 second'",
        list(device_ids),
        node,
        DEAD_AFTER,
    )
    return dict(rows)


async def take_lease(connection: Connection, name: str, node: str, seconds: float) -> bool:
    """Whether the node has it now."""
    await connection.execute(
        "INSERT INTO cluster_lease (name) VALUES ($1) ON CONFLICT (name) DO NOTHING", name
    )
    return await connection.execute(_TAKE_LEASE, name, node, seconds) == "UPDATE 1"


async def dead_nodes(connection: Connection) -> list[str]:
    """Nodes that have given no sign of life for too long."""
    rows = await connection.fetch(
        "SELECT node FROM cluster_node WHERE seen_at <= now() - $1::float8 * interval '1 second'", DEAD_AFTER
    )
    return [node for [node] in rows]


async def give_free(connection: Connection, node: str) -> bool:
    """Give free sessions of a node that is no more; True if there may be others left."""
    return await connection.execute(_SWEEP, node, STEP_DEVICES) == f"UPDATE {STEP_DEVICES}"


async def forget_node(connection: Connection, node: str) -> None:
    """Delete a dead node, unless it has given a sign of life meanwhile."""
    await connection.execute(
        "DELETE FROM cluster_node WHERE node = $1 AND seen_at <= now() - $2::float8 * interval '1 second'",
        node,
        DEAD_AFTER,
    )


async def have_looked_at(connection: Connection, device_id: str) -> None:
    """Ask the node of the device's session, if there is one, to look into the database at once.

    Sent with the commit of the transaction; where hints take another way the node's own look finds it.
    """
    node = await connection.fetchval(
        "SELECT owner_node FROM inbox_offset WHERE entity_id = $1 AND owner_node IS NOT NULL", device_id
    )
    if node is not None:
        await connection.execute("SELECT pg_notify($1, $2)", channel_of(node), LOOK)
