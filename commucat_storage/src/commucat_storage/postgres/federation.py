"""What a PostgreSQL store has of other servers, beside the rows of outboxes: one function for each method.

Functions that write are called inside a transaction, where nothing else is said.
"""

import secrets
from collections.abc import Mapping, Sequence

import asyncpg
import attrs

from commucat_storage.admission import RENEWAL_NUMBER
from commucat_storage.errors import AlreadyExistsError, StorageError
from commucat_storage.federation import (
    LATE_NUMBER,
    MAX_DEAD_LETTER_BYTES,
    MAX_DEAD_LETTERS,
    DeadLetter,
    OutboxPage,
    OutboxRow,
    OutboxStanding,
    Peer,
    PeerStanding,
    PeerStatus,
    RemoteFriendRequest,
    is_same_request,
    letter_of,
    outbox_of,
    outbox_row,
    peer_of,
    request_of,
    standing_of,
)
from commucat_storage.friends import MAX_PENDING_REQUESTS, FriendRefusal, FriendRefusedError, RequestStatus
from commucat_storage.operating import OperatorRecord
from commucat_storage.postgres import operating
from commucat_storage.postgres.admit import renew_inbox
from commucat_storage.postgres.connection import Connection
from commucat_storage.postgres.friends import MOMENT, befriend, hold, lock_users
from commucat_storage.postgres.queue_sql import LATEST

_STEP_ROWS = 1_000


def _seconds(column: str) -> str:
    return f"extract(epoch FROM {column})::bigint"


def _end(column: str) -> str:
    return f"extract(epoch FROM least({column}, to_timestamp({LATEST})))::bigint"


# -- peers -----------------------------------------------------------------------------------------

_PEER = "domain, endpoint, public_key, status, next_key, created_at, updated_at"
_STANDING = "domain, status, error_count, last_seen_at, last_error, updated_at"
_PUT_PEER = f"""INSERT INTO federation_peer ({_PEER})
VALUES ($1, $2, $3, $4, $5, to_timestamp($6::float8), to_timestamp($7::float8))
ON CONFLICT (domain) DO UPDATE SET endpoint = excluded.endpoint, public_key = excluded.public_key,
    status = excluded.status, next_key = excluded.next_key, created_at = excluded.created_at,
    updated_at = excluded.updated_at"""  # noqa: S608 - names of ours
_NOTE_PEER = f"""INSERT INTO federation_peer_status ({_STANDING})
VALUES ($1, $2, $3, to_timestamp($4::float8), $5, to_timestamp($6::float8))
ON CONFLICT (domain) DO UPDATE SET status = excluded.status, error_count = excluded.error_count,
    last_seen_at = excluded.last_seen_at, last_error = excluded.last_error,
    updated_at = excluded.updated_at"""  # noqa: S608


async def peers(connection: Connection, domain: str | None = None) -> tuple[Peer, ...]:
    """All, or the one of a domain."""
    rows = await connection.fetch(
        f"SELECT domain, endpoint, public_key, status, next_key, {_seconds('created_at')}, "  # noqa: S608
        f"{_seconds('updated_at')} FROM federation_peer WHERE domain = coalesce($1, domain) ORDER BY domain",
        domain,
    )
    return tuple(sorted(map(peer_of, rows), key=lambda peer: peer.domain))


async def put_peer(connection: Connection, peer: Peer, record: OperatorRecord | None) -> None:
    """Insert or replace."""
    await connection.execute(
        _PUT_PEER,
        peer.domain.lower(),
        peer.endpoint,
        peer.public_key,
        peer.status.value,
        peer.next_key,
        peer.created_at,
        peer.updated_at,
    )
    await operating.add_record(connection, record)


async def activate_peer(connection: Connection, domain: str, now: int) -> bool:
    """False if there is none that is pending."""
    changed = await connection.execute(
        "UPDATE federation_peer SET status = $3, updated_at = to_timestamp($2::float8) "
        "WHERE domain = $1 AND status = $4",
        domain,
        now,
        PeerStatus.ACTIVE.value,
        PeerStatus.PENDING.value,
    )
    return changed == "UPDATE 1"


async def remove_peer(connection: Connection, domain: str, record: OperatorRecord | None) -> bool:
    """False if there is none."""
    gone = await connection.execute("DELETE FROM federation_peer WHERE domain = $1", domain)
    if gone == "DELETE 0":
        return False
    await connection.execute("DELETE FROM federation_peer_status WHERE domain = $1", domain)
    if await _lock_outbox(connection, domain):
        await connection.execute("UPDATE outbox SET open = false WHERE domain = $1", domain)
    await operating.add_record(connection, record)
    return True


async def note_peer(connection: Connection, standing: PeerStanding) -> None:
    """Insert or replace; one statement, that may be done twice."""
    await connection.execute(
        _NOTE_PEER, *attrs.astuple(attrs.evolve(standing, domain=standing.domain.lower()))
    )


async def peer_standings(connection: Connection) -> tuple[PeerStanding, ...]:
    """By domain."""
    rows = await connection.fetch(
        f"SELECT domain, status, error_count, {_seconds('last_seen_at')}, last_error, "  # noqa: S608
        f"{_seconds('updated_at')} FROM federation_peer_status"
    )
    return tuple(sorted(map(standing_of, rows), key=lambda standing: standing.domain))


# -- outboxes --------------------------------------------------------------------------------------

# As in reading an inbox: the sizes are summed before any payload is touched.
_PAGE = f"""
SELECT o.epoch, o.confirmed, o.next_number - 1 AS head, page.kept, page.number, page.frame_type, page.channel,
    CASE WHEN page.kept THEN (
        SELECT coalesce(q.payload, p.payload) FROM relay_queue AS q
        LEFT JOIN relay_payload AS p ON p.payload_id = q.payload_id WHERE q.position = page.position
    ) END AS payload, {_end("page.expires_at")}, page.sender, u.handle, page.target,
    page.reporter IS NOT NULL, page.reference,
    page.group_id, g.revision
FROM inbox_offset AS o LEFT JOIN LATERAL (
    SELECT *, position & 4294967295 AS number,
        row_number() OVER (ORDER BY position) = 1
        OR (row_number() OVER (ORDER BY position) <= $4
            AND sum(size) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) <= $5) AS kept
    FROM (
        SELECT position, frame_type, channel, size, expires_at, sender, target, reporter, reference,
            group_id
        FROM relay_queue
        WHERE position > (o.inbox << 32) + greatest(o.confirmed, $2)
            AND position < (o.inbox + 1) << 32 AND expires_at > to_timestamp($3::float8)
        ORDER BY position LIMIT $4 + 1
    ) AS waiting
) AS page ON true
LEFT JOIN user_device AS d ON d.opaque_id = page.sender LEFT JOIN app_user AS u ON u.user_id = d.user_id
LEFT JOIN chat_group AS g ON g.group_id = page.group_id
WHERE o.entity_id = $1 ORDER BY page.position"""  # noqa: S608 - texts of ours
_OUTBOXES = f"""
SELECT x.domain, x.open, o.rows, o.bytes, (
    SELECT {_end("q.expires_at")} FROM relay_queue AS q
    WHERE q.position > (o.inbox << 32) + o.confirmed AND q.position < (o.inbox + 1) << 32
    ORDER BY q.position LIMIT 1
)
FROM outbox AS x JOIN inbox_offset AS o ON o.entity_id = '@' || x.domain"""  # noqa: S608


async def set_outbox(connection: Connection, domain: str, is_open: bool) -> None:
    """Make it if there is none."""
    if not await _lock_outbox(connection, domain):
        await connection.execute(
            "INSERT INTO inbox_offset (entity_id, epoch) VALUES ($1, $2) "
            "ON CONFLICT (entity_id) DO UPDATE SET relations = inbox_offset.relations + 1",
            outbox_of(domain),
            secrets.token_hex(16),
        )
    await connection.execute(
        "INSERT INTO outbox (domain, open) VALUES ($1, $2) "
        "ON CONFLICT (domain) DO UPDATE SET open = excluded.open",
        domain,
        is_open,
    )


async def outbox_page(
    connection: Connection, domain: str, number: int, limit_rows: int, limit_bytes: int, now: int
) -> OutboxPage | None:
    """None if there is no such outbox."""
    found = await connection.fetch(
        _PAGE, outbox_of(domain), min(max(number, 0), 2**32), now, limit_rows, limit_bytes
    )
    if not found:
        return None
    epoch, confirmed, head, *_ = found[0]
    rows: list[OutboxRow] = []
    for _, _, _, kept, *columns in found:
        if columns[0] is None:
            break
        if not kept:
            return OutboxPage(epoch, tuple(rows), head, False, confirmed)
        rows.append(outbox_row(columns))
    return OutboxPage(epoch, tuple(rows), head, True, confirmed)


async def outboxes(connection: Connection) -> tuple[OutboxStanding, ...]:
    """By domain."""
    found = [
        OutboxStanding(domain=row[0], open=row[1], rows=row[2], bytes=row[3], earliest_expiry=row[4])
        for row in await connection.fetch(_OUTBOXES)
    ]
    return tuple(sorted(found, key=lambda standing: standing.domain))


async def used_up_outboxes(connection: Connection) -> list[str]:
    """Names of outboxes whose numbers come near their end.

    An empty one early, so that what is just being sent does not come under another number; one that is never
    empty at last.
    """
    rows = await connection.fetch(
        "SELECT o.entity_id FROM outbox AS x JOIN inbox_offset AS o ON o.entity_id = '@' || x.domain "
        "WHERE o.next_number > $1 AND (o.rows = 0 OR o.next_number > $2)",
        RENEWAL_NUMBER,
        LATE_NUMBER,
    )
    return [name for [name] in rows]


async def renew_outboxes(connection: Connection, names: Sequence[str]) -> None:
    """Give them a new epoch, if they are still so."""
    # Locked in the order of every transaction.
    for [name] in await connection.fetch(
        "SELECT entity_id FROM inbox_offset WHERE entity_id = ANY ($1) AND next_number > $2 "
        "AND (rows = 0 OR next_number > $3) ORDER BY entity_id FOR NO KEY UPDATE",
        list(names),
        RENEWAL_NUMBER,
        LATE_NUMBER,
    ):
        await renew_inbox(connection, name)


async def _lock_outbox(connection: Connection, domain: str) -> bool:
    """Lock the inbox, and make everybody forget what is remembered of it; False if there is none."""
    done = await connection.execute(
        "UPDATE inbox_offset SET relations = relations + 1 WHERE entity_id = $1", outbox_of(domain)
    )
    return done == "UPDATE 1"


# -- dead letters ----------------------------------------------------------------------------------

_LETTER = f"""letter_id, domain, sender, target, channel, frame_type, payload, reason, report, reference,
    {_end("expires_at")}, {_seconds("failed_at")}, group_id"""
_BURY = """
INSERT INTO federation_dead_letter (letter_id, domain, number, sender, target, channel, frame_type, payload,
    reason, report, reference, expires_at, failed_at, group_id)
SELECT o.epoch || '-' || n.number, $1, n.number, q.sender, q.target, q.channel, q.frame_type,
    coalesce(q.payload, p.payload), n.reason, q.reporter IS NOT NULL, coalesce(q.reference, ''), q.expires_at,
    to_timestamp($6::float8), q.group_id
FROM unnest($4::bigint[], $5::text[]) AS n (number, reason)
JOIN inbox_offset AS o ON o.entity_id = $2 AND o.epoch = $3
JOIN relay_queue AS q ON q.position = (o.inbox << 32) + n.number
LEFT JOIN relay_payload AS p ON p.payload_id = q.payload_id
ON CONFLICT (letter_id) DO NOTHING"""
_TRIM = """
DELETE FROM federation_dead_letter WHERE letter_id IN (
    SELECT letter_id FROM (
        SELECT letter_id, row_number() OVER newest AS place, sum(octet_length(payload)) OVER newest AS size
        FROM federation_dead_letter WHERE domain = $1
        WINDOW newest AS (ORDER BY failed_at DESC, number DESC ROWS UNBOUNDED PRECEDING)
    ) AS kept WHERE place > $2 OR size > $3 AND place > 1
)"""


async def bury(
    connection: Connection, domain: str, epoch: str, letters: Sequence[tuple[int, str]], now: int
) -> tuple[DeadLetter, ...]:
    """Copy the rows that are there; those that are copied, in the order of their numbers."""
    reasons = dict(letters)
    numbers = sorted(reasons)
    await connection.execute(
        _BURY, domain, outbox_of(domain), epoch, numbers, [reasons[each] for each in numbers], now
    )
    rows = await connection.fetch(
        f"SELECT {_LETTER} FROM federation_dead_letter WHERE letter_id = ANY ($1) ORDER BY number",  # noqa: S608
        [f"{epoch}-{number}" for number in numbers],
    )
    await connection.execute(_TRIM, domain, MAX_DEAD_LETTERS, MAX_DEAD_LETTER_BYTES)
    return tuple(map(letter_of, rows))


async def dead_letters(connection: Connection, domain: str | None, limit: int) -> tuple[DeadLetter, ...]:
    """The newest first."""
    condition = "" if domain is None else "WHERE domain = $2"
    rows = await connection.fetch(
        f"SELECT {_LETTER} FROM federation_dead_letter {condition} "  # noqa: S608 - texts of ours
        "ORDER BY federation_dead_letter.failed_at DESC, number DESC LIMIT $1",
        *((limit,) if domain is None else (limit, domain)),
    )
    return tuple(map(letter_of, rows))


async def dead_letter_counts(connection: Connection) -> Mapping[str, int]:
    """By domain."""
    rows = await connection.fetch("SELECT domain, count(*) FROM federation_dead_letter GROUP BY 1")
    return dict(sorted((domain, count) for domain, count in rows))


async def forget_dead_letters(connection: Connection, letter_ids: Sequence[str]) -> int:
    """How many there were."""
    return _count(
        await connection.execute(
            "DELETE FROM federation_dead_letter WHERE letter_id = ANY ($1)", list(letter_ids)
        )
    )


async def purge_letters(connection: Connection, now: int) -> int:
    """Delete at most a thousand whose time is over; one statement, that may be done twice."""
    return _count(
        await connection.execute(
            "DELETE FROM federation_dead_letter WHERE letter_id IN (SELECT letter_id "
            "FROM federation_dead_letter WHERE expires_at <= to_timestamp($1::float8) LIMIT $2)",
            now,
            _STEP_ROWS,
        )
    )


# -- friends of other servers ----------------------------------------------------------------------

_REQUEST = """request_id, from_address, to_address, status, message, incoming,
    (extract(epoch FROM created_at) * 1000000)::bigint, (extract(epoch FROM updated_at) * 1000000)::bigint,
    user_id"""
_INSERT_REQUEST = f"""
INSERT INTO federated_friend_requests
    (request_id, from_address, to_address, status, message, incoming, created_at, updated_at, user_id)
VALUES ($1, $2, $3, $4, $5, $6, {MOMENT.format(7)}, {MOMENT.format(8)}, $9)"""  # noqa: S608


async def remote_requests(connection: Connection, user_id: str) -> tuple[RemoteFriendRequest, ...]:
    """Pending ones to the user, and all of the user."""
    return await _requests(
        connection,
        "user_id = $1 AND (NOT incoming OR status = 'pending') ORDER BY updated_at DESC, request_id",
        user_id,
    )


async def load_remote_request(connection: Connection, request_id: str) -> RemoteFriendRequest | None:
    """None if there is none."""
    found = await _requests(connection, "request_id = $1", request_id)
    return found[0] if found else None


async def put_remote_request(connection: Connection, request: RemoteFriendRequest) -> RemoteFriendRequest:
    """See :meth:`FederationStore.put_remote_request`."""
    # Of several that come at once for a user each sees what the one before has stored.
    await lock_users(connection, [request.user_id])
    known = await load_remote_request(connection, request.request_id)
    taken = f"there is another request {request.request_id}"
    if known is not None:
        if not is_same_request(known, request):
            raise AlreadyExistsError(taken)
        return known
    pair = (request.from_address, request.to_address)
    before = await _requests(connection, "from_address = $1 AND to_address = $2", *pair)
    if any(not each.incoming and each.status is RequestStatus.PENDING for each in before):
        raise FriendRefusedError(FriendRefusal.REQUEST_PENDING)
    await connection.execute(
        "DELETE FROM federated_friend_requests WHERE from_address = $1 AND to_address = $2", *pair
    )
    count = await connection.fetchval(
        "SELECT count(*) FROM federated_friend_requests "
        "WHERE user_id = $1 AND incoming = $2 AND status = 'pending'",
        request.user_id,
        request.incoming,
    )
    if count >= MAX_PENDING_REQUESTS:
        full = FriendRefusal.TOO_MANY_WAITING if request.incoming else FriendRefusal.TOO_MANY_SENT
        raise FriendRefusedError(full)
    try:
        await connection.execute(
            _INSERT_REQUEST,
            request.request_id,
            *pair,
            request.status.value,
            request.message,
            request.incoming,
            request.created_at,
            request.updated_at,
            request.user_id,
        )
    except asyncpg.UniqueViolationError as exc:
        raise AlreadyExistsError(taken) from exc
    except asyncpg.IntegrityConstraintViolationError as exc:
        raise StorageError(f"the request {request.request_id} cannot be stored: {exc}") from exc
    return request


async def answer_remote_request(
    connection: Connection, request_id: str, accept: bool, now: int
) -> RemoteFriendRequest:
    """See :meth:`FederationStore.answer_remote_request`."""
    known = await load_remote_request(connection, request_id)
    if known is not None:
        # In the order of everybody who changes a list; then again, as it stands behind the locks.
        if accept:
            await hold(connection, [known.user_id])
        else:
            await lock_users(connection, [known.user_id])
        known = await load_remote_request(connection, request_id)
    if known is None:
        raise FriendRefusedError(FriendRefusal.NO_REQUEST)
    status = RequestStatus.ACCEPTED if accept else RequestStatus.REJECTED
    if known.status is not RequestStatus.PENDING:
        if known.status is status:
            return known
        raise FriendRefusedError(FriendRefusal.NOT_PENDING)
    if accept:
        await befriend(connection, known.user_id, known.other_address, FriendRefusal.TOO_MANY_FRIENDS)
    await connection.execute(
        "UPDATE federated_friend_requests SET status = $2, "  # noqa: S608 - texts of ours
        f"updated_at = {MOMENT.format(3)} WHERE request_id = $1",
        request_id,
        status.value,
        now,
    )
    return attrs.evolve(known, status=status, updated_at=now)


async def _requests(
    connection: Connection, condition: str, *values: object
) -> tuple[RemoteFriendRequest, ...]:
    rows = await connection.fetch(
        f"SELECT {_REQUEST} FROM federated_friend_requests WHERE {condition}",  # noqa: S608 - texts of ours
        *values,
    )
    return tuple(map(request_of, rows))


def _count(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
