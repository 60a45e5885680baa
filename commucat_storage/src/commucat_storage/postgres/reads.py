"""Reading: one statement each, so that what comes back is of one moment."""

from collections.abc import Sequence

from commucat_storage.inbox import InboxPage, InboxRow, InboxState
from commucat_storage.known_device import known_device_of
from commucat_storage.metering import QueueState
from commucat_storage.postgres.connection import Connection
from commucat_storage.postgres.rows import columns_of
from commucat_storage.records import CertificateRow, Device, Group, GroupRole, KnownDevice, Route, User
from commucat_storage.rooms import is_reserved

# The sizes are summed before any payload is touched, so that a page of large messages reads only
# what it gives back; "kept" rows are a prefix, because the sum only grows.
_READ_AFTER = """
SELECT o.next_number - 1 AS head, page.number, page.frame_type, page.channel, page.kept,
    CASE WHEN page.kept THEN (
        SELECT coalesce(q.payload, p.payload) FROM relay_queue AS q
        LEFT JOIN relay_payload AS p ON p.payload_id = q.payload_id WHERE q.position = page.position
    ) END AS payload
FROM inbox_offset AS o LEFT JOIN LATERAL (
    SELECT position, position & 4294967295 AS number, frame_type, channel,
        row_number() OVER (ORDER BY position) = 1
        OR (row_number() OVER (ORDER BY position) <= $4
            AND sum(size) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) <= $5) AS kept
    FROM (
        SELECT position, frame_type, channel, size FROM relay_queue
        WHERE position > (o.inbox << 32) + greatest(o.confirmed, $2)
            AND position < (o.inbox + 1) << 32 AND expires_at > to_timestamp($3::float8)
        ORDER BY position LIMIT $4 + 1
    ) AS waiting
) AS page ON true
WHERE o.entity_id = $1 ORDER BY page.position"""

_PEERS = """
SELECT DISTINCT d.opaque_id FROM (
    SELECT theirs.device_id AS peer
    FROM group_member AS own JOIN group_member AS theirs ON theirs.group_id = own.group_id
    WHERE own.device_id = $1 AND own.accepted AND theirs.accepted
    UNION ALL
    SELECT theirs.device_id
    FROM route AS own CROSS JOIN LATERAL unnest(own.members) AS named
    JOIN route AS theirs ON theirs.device_id = named AND theirs.channel = own.channel
    WHERE own.device_id = $1 AND $1 = ANY (theirs.members)
    UNION ALL
    SELECT theirs.opaque_id
    FROM user_device AS own JOIN friend AS f ON f.user_id = own.user_id
    JOIN friend AS back ON back.user_id = f.friend_id AND back.friend_id = f.user_id
    JOIN user_device AS theirs ON theirs.user_id = f.friend_id
    WHERE own.opaque_id = $1
) AS found JOIN user_device AS d ON d.opaque_id = found.peer
WHERE d.status = 'active' AND d.opaque_id <> $1 LIMIT $2"""

_PEERS_OF_EACH = f"""SELECT asked.device_id, peers.opaque_id
FROM unnest($1::text[]) AS asked (device_id)
CROSS JOIN LATERAL ({_PEERS.replace("$1", "asked.device_id")}) AS peers"""  # noqa: S608

_KNOWN_DEVICE = f"""SELECT {columns_of(Device, "user_device", "d")}, {columns_of(User, "app_user", "u")},
    {columns_of(CertificateRow, "device_certificates", "c")}
FROM user_device AS d JOIN app_user AS u ON u.user_id = d.user_id LEFT JOIN LATERAL (
    SELECT * FROM device_certificates WHERE device_id = d.opaque_id AND revoked_at IS NULL
    ORDER BY issued_at DESC, position DESC LIMIT 1
) AS c ON true
WHERE d.opaque_id = $1"""  # noqa: S608


async def known_device(connection: Connection, device_id: str) -> KnownDevice | None:
    """The device, its user and its newest certificate that is not revoked, in one statement."""
    row = await connection.fetchrow(_KNOWN_DEVICE, device_id)
    return None if row is None else known_device_of(row)


async def read_after(
    connection: Connection, device_id: str, number: int, limit_rows: int, limit_bytes: int, now: int
) -> InboxPage:
    """A page of the inbox; an empty complete one with head 0 for an unknown device."""
    head = 0
    rows: list[InboxRow] = []
    found = await connection.fetch(
        _READ_AFTER, device_id, min(max(number, 0), 2**32), now, limit_rows, limit_bytes
    )
    for head, row_number, frame_type, channel, kept, payload in found:
        if row_number is None:
            break
        if not kept:
            return InboxPage(tuple(rows), head, False)
        rows.append(InboxRow(row_number, frame_type, channel, payload))
    return InboxPage(tuple(rows), head, True)


async def inbox_state(connection: Connection, device_id: str) -> InboxState | None:
    """Where the inbox stands; None for an unknown device."""
    row = await connection.fetchrow(
        "SELECT epoch, next_number, confirmed FROM inbox_offset WHERE entity_id = $1", device_id
    )
    return None if row is None else InboxState(*row)


async def queue_state(connection: Connection, after: int) -> QueueState:
    """What waits in all inboxes."""
    row = await connection.fetchrow(
        "SELECT coalesce(sum(rows), 0)::bigint, coalesce(sum(bytes), 0)::bigint, count(*), "
        "min(earliest) FILTER (WHERE earliest > $1) FROM inbox_offset "
        "WHERE rows > 0 AND left(entity_id, 1) <> '@'",
        after,
    )
    assert row is not None
    messages, size, inboxes, earliest = row
    return QueueState(messages=messages, size=size, inboxes=inboxes, earliest_expiry=earliest)


async def not_active(connection: Connection, device_ids: Sequence[str]) -> frozenset[str]:
    """Those that do not exist or are not active."""
    rows = await connection.fetch(
        "SELECT opaque_id FROM user_device WHERE opaque_id = ANY ($1) AND status = 'active'",
        list(device_ids),
    )
    return frozenset(device_ids) - {device_id for [device_id] in rows}


async def sessions_ended(connection: Connection, token_hashes: Sequence[str]) -> frozenset[str]:
    """Those that are no session of an active device."""
    rows = await connection.fetch(
        "SELECT s.opaque_id FROM session AS s JOIN user_device AS d ON d.opaque_id = s.device_id "
        "WHERE s.opaque_id = ANY ($1) AND d.status = 'active'",
        list(token_hashes),
    )
    return frozenset(token_hashes) - {token_hash for [token_hash] in rows}


async def routes_of(connection: Connection, device_id: str) -> dict[int, Route]:
    """The device's own routes by channel."""
    rows = await connection.fetch(
        "SELECT channel, relay, members, group_id FROM route WHERE device_id = $1", device_id
    )
    return {
        channel: Route(members=frozenset(members), relay=relay, group_id=group_id)
        for channel, relay, members, group_id in rows
    }


async def load_group(connection: Connection, group_id: str) -> Group | None:
    """The group with its members, in the order in which they came; None for an open room."""
    if is_reserved(group_id):
        return None
    rows = await connection.fetch(
        "SELECT extract(epoch FROM g.created_at)::bigint, g.relay, m.device_id, m.role, "
        "g.home, g.revision FROM chat_group AS g "
        "JOIN group_member AS m ON m.group_id = g.group_id WHERE g.group_id = $1 "
        "ORDER BY m.joined_at, m.device_id",
        group_id,
    )
    if not rows:
        return None
    created_at, relay, _, _, home, revision = rows[0]
    return Group(
        group_id=group_id,
        created_at=created_at,
        relay=relay,
        members={row[2]: GroupRole(row[3]) for row in rows},
        home=home,
        revision=revision,
    )


async def peers_of_each(
    connection: Connection, device_ids: Sequence[str], limit: int
) -> tuple[tuple[str, ...], ...]:
    """:func:`peers_of` for each, in one statement."""
    peers: dict[str, list[str]] = {device_id: [] for device_id in device_ids}
    for device_id, peer in await connection.fetch(_PEERS_OF_EACH, list(peers), limit):
        peers[device_id].append(peer)
    return tuple(tuple(peers[device_id]) for device_id in device_ids)


async def peers_of(connection: Connection, device_id: str, limit: int) -> tuple[str, ...]:
    """Active devices in its groups, those it shares a channel with by mutual routes, and those of friends."""
    return tuple(peer for [peer] in await connection.fetch(_PEERS, device_id, limit))
