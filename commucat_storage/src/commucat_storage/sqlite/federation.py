"""What an embedded store has of other servers, beside the rows of outboxes: one function for each method."""

import sqlite3
from collections.abc import Mapping, Sequence

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
    cleaned,
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
from commucat_storage.sqlite import operating
from commucat_storage.sqlite.admit import insert_inbox, renew_inbox
from commucat_storage.sqlite.friends import befriend
from commucat_storage.sqlite.writer import Transaction

_STEP_ROWS = 1_000

# -- peers -----------------------------------------------------------------------------------------

_PEER = "domain, endpoint, public_key, status, next_key, created_at, updated_at"
_STANDING = "domain, status, error_count, last_seen_at, last_error, updated_at"


def peers(connection: sqlite3.Connection, domain: str | None = None) -> tuple[Peer, ...]:
    """All, or the one of a domain."""
    rows = connection.execute(
        f"SELECT {_PEER} FROM federation_peer WHERE domain = coalesce(?, domain) ORDER BY domain",  # noqa: S608
        (domain,),
    )
    return tuple(map(peer_of, rows))


def put_peer(connection: sqlite3.Connection, peer: Peer, record: OperatorRecord | None) -> None:
    """Insert or replace."""
    connection.execute(
        f"INSERT OR REPLACE INTO federation_peer ({_PEER}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (
            peer.domain.lower(),
            peer.endpoint,
            peer.public_key,
            peer.status.value,
            peer.next_key,
            peer.created_at,
            peer.updated_at,
        ),
    )
    operating.add_record(connection, record)


def activate_peer(connection: sqlite3.Connection, domain: str, now: int) -> bool:
    """False if there is none that is pending."""
    changed = connection.execute(
        "UPDATE federation_peer SET status = ?, updated_at = ? WHERE domain = ? AND status = ?",
        (PeerStatus.ACTIVE.value, now, domain, PeerStatus.PENDING.value),
    )
    return changed.rowcount == 1


def remove_peer(transaction: Transaction, domain: str, record: OperatorRecord | None) -> bool:
    """False if there is none."""
    connection = transaction.connection
    if connection.execute("DELETE FROM federation_peer WHERE domain = ?", (domain,)).rowcount == 0:
        return False
    connection.execute("DELETE FROM federation_peer_status WHERE domain = ?", (domain,))
    connection.execute("UPDATE outbox SET open = 0 WHERE domain = ?", (domain,))
    transaction.inboxes.forget(outbox_of(domain))
    operating.add_record(connection, record)
    return True


def note_peer(connection: sqlite3.Connection, standing: PeerStanding) -> None:
    """Insert or replace."""
    connection.execute(
        f"INSERT OR REPLACE INTO federation_peer_status ({_STANDING}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608
        attrs.astuple(attrs.evolve(standing, domain=standing.domain.lower())),
    )


def peer_standings(connection: sqlite3.Connection) -> tuple[PeerStanding, ...]:
    """By domain."""
    rows = connection.execute(f"SELECT {_STANDING} FROM federation_peer_status ORDER BY domain")  # noqa: S608
    return tuple(map(standing_of, rows))


# -- outboxes --------------------------------------------------------------------------------------

# One statement, so that everything is of one moment. No row of the queue gives one row with NULLs.
_PAGE = """
SELECT o.epoch, o.confirmed, o.next_number - 1, q.size, q.position & 4294967295, q.frame_type, q.channel,
    coalesce(q.payload, p.payload), q.expires_at, q.sender, u.handle, q.target, q.reporter IS NOT NULL,
    q.reference, q.group_id, g.revision
FROM outbox AS x
JOIN inbox_offset AS o ON o.inbox = x.inbox
LEFT JOIN relay_queue AS q ON q.position > (o.inbox << 32) + max(o.confirmed, ?2)
    AND q.position < (o.inbox + 1) << 32 AND q.expires_at > ?3
LEFT JOIN relay_payload AS p ON p.payload_id = q.payload_id
LEFT JOIN user_device AS d ON d.device_id = q.sender LEFT JOIN app_user AS u ON u.user_id = d.user_id
LEFT JOIN chat_group AS g ON g.group_id = q.group_id
WHERE x.domain = ?1
ORDER BY q.position LIMIT ?4"""
_OUTBOXES = """
SELECT x.domain, x.open, o.rows, o.bytes, (
    SELECT q.expires_at FROM relay_queue AS q
    WHERE q.position > x.inbox << 32 AND q.position < (x.inbox + 1) << 32 ORDER BY q.position LIMIT 1
)
FROM outbox AS x JOIN inbox_offset AS o ON o.inbox = x.inbox ORDER BY x.domain"""


def set_outbox(transaction: Transaction, domain: str, is_open: bool) -> None:
    """Make it if there is none."""
    connection = transaction.connection
    changed = connection.execute("UPDATE outbox SET open = ? WHERE domain = ?", (is_open, domain))
    if changed.rowcount == 0:
        inbox, _ = insert_inbox(connection)
        connection.execute("INSERT INTO outbox VALUES (?, ?, ?)", (domain, is_open, inbox))
    transaction.inboxes.forget(outbox_of(domain))


def outbox_page(
    connection: sqlite3.Connection, domain: str, number: int, limit_rows: int, limit_bytes: int, now: int
) -> OutboxPage | None:
    """None if there is no such outbox."""
    page = None
    room = limit_bytes
    rows: list[OutboxRow] = []
    cursor = connection.execute(_PAGE, (domain, max(number, 0), now, limit_rows + 1))
    try:
        for epoch, confirmed, head, size, *columns in cursor:
            page = (head, confirmed, epoch)
            if size is None:
                break
            if rows and (len(rows) == limit_rows or size > room):
                return OutboxPage(epoch, tuple(rows), head, False, confirmed)
            room -= size
            rows.append(outbox_row(columns))
    finally:
        # Stopped half-way, the statement would keep its snapshot and so the log from being reused.
        cursor.close()
    if page is None:
        return None
    head, confirmed, epoch = page
    return OutboxPage(epoch, tuple(rows), head, True, confirmed)


def outboxes(connection: sqlite3.Connection) -> tuple[OutboxStanding, ...]:
    """By domain."""
    return tuple(
        OutboxStanding(domain=row[0], open=bool(row[1]), rows=row[2], bytes=row[3], earliest_expiry=row[4])
        for row in connection.execute(_OUTBOXES).fetchall()
    )


def used_up_outboxes(connection: sqlite3.Connection) -> list[tuple[str, int]]:
    """Domains and inboxes of outboxes whose numbers come near their end.

    An empty one early, so that what is just being sent does not come under another number; one that is never
    empty at last.
    """
    return connection.execute(
        "SELECT x.domain, x.inbox FROM outbox AS x JOIN inbox_offset AS o ON o.inbox = x.inbox "
        "WHERE o.next_number > ? AND (o.rows = 0 OR o.next_number > ?)",
        (RENEWAL_NUMBER, LATE_NUMBER),
    ).fetchall()


def renew_outboxes(transaction: Transaction) -> None:
    """Give them a new epoch."""
    connection = transaction.connection
    for domain, old in used_up_outboxes(connection):
        new, _ = renew_inbox(connection, old)
        connection.execute("UPDATE outbox SET inbox = ? WHERE domain = ?", (new, domain))
        connection.execute("DELETE FROM inbox_offset WHERE inbox = ?", (old,))
        transaction.inboxes.forget(outbox_of(domain))


# -- dead letters ----------------------------------------------------------------------------------

_LETTER = """letter_id, domain, sender, target, channel, frame_type, payload, reason, report, reference,
    expires_at, failed_at, group_id"""
_BURY = f"""
INSERT OR IGNORE INTO federation_dead_letter (number, {_LETTER})
SELECT q.position & 4294967295, ?4, x.domain, q.sender, q.target, q.channel, q.frame_type,
    coalesce(q.payload, p.payload), ?5, q.reporter IS NOT NULL, coalesce(q.reference, x''), q.expires_at, ?6,
    q.group_id
FROM outbox AS x
JOIN inbox_offset AS o ON o.inbox = x.inbox
JOIN relay_queue AS q ON q.position = (o.inbox << 32) + ?3
LEFT JOIN relay_payload AS p ON p.payload_id = q.payload_id
WHERE x.domain = ?1 AND o.epoch = ?2"""  # noqa: S608 - names of ours
_TRIM = """
DELETE FROM federation_dead_letter WHERE letter_id IN (
    SELECT letter_id FROM (
        SELECT letter_id, row_number() OVER newest AS place, sum(length(payload)) OVER newest AS size
        FROM federation_dead_letter WHERE domain = ?1
        WINDOW newest AS (ORDER BY failed_at DESC, number DESC ROWS UNBOUNDED PRECEDING)
    ) WHERE place > ?2 OR size > ?3 AND place > 1
)"""


def bury(
    connection: sqlite3.Connection, domain: str, epoch: str, letters: Sequence[tuple[int, str]], now: int
) -> tuple[DeadLetter, ...]:
    """Copy the rows that are there; those that are copied, in the order of their numbers."""
    found = []
    for number, reason in sorted(letters):
        letter_id = f"{epoch}-{number}"
        connection.execute(_BURY, (domain, epoch, number, letter_id, reason, now))
        found += connection.execute(
            f"SELECT {_LETTER} FROM federation_dead_letter WHERE letter_id = ?",  # noqa: S608
            (letter_id,),
        ).fetchall()
    connection.execute(_TRIM, (domain, MAX_DEAD_LETTERS, MAX_DEAD_LETTER_BYTES))
    return tuple(map(letter_of, found))


def dead_letters(connection: sqlite3.Connection, domain: str | None, limit: int) -> tuple[DeadLetter, ...]:
    """The newest first."""
    condition = "" if domain is None else "WHERE domain = ?2"
    rows = connection.execute(
        f"SELECT {_LETTER} FROM federation_dead_letter {condition} "  # noqa: S608 - texts of ours
        "ORDER BY failed_at DESC, number DESC LIMIT ?1",
        (limit,) if domain is None else (limit, domain),
    )
    return tuple(map(letter_of, rows))


def dead_letter_counts(connection: sqlite3.Connection) -> Mapping[str, int]:
    """By domain."""
    return dict(
        connection.execute(
            "SELECT domain, count(*) FROM federation_dead_letter GROUP BY 1 ORDER BY 1"
        ).fetchall()
    )


def forget_dead_letters(connection: sqlite3.Connection, letter_ids: Sequence[str]) -> int:
    """How many there were."""
    return connection.executemany(
        "DELETE FROM federation_dead_letter WHERE letter_id = ?", [(each,) for each in set(letter_ids)]
    ).rowcount


def delete_expired_letters(now: int, transaction: Transaction) -> int:
    """At most a thousand."""
    return transaction.connection.execute(
        "DELETE FROM federation_dead_letter WHERE letter_id IN "
        "(SELECT letter_id FROM federation_dead_letter WHERE expires_at <= ? LIMIT ?)",
        (now, _STEP_ROWS),
    ).rowcount


# -- friends of other servers ----------------------------------------------------------------------

_REQUEST = """request_id, from_address, to_address, status, message, incoming, created_at, updated_at,
    user_id"""


def remote_requests(connection: sqlite3.Connection, user_id: str) -> tuple[RemoteFriendRequest, ...]:
    """Pending ones to the user, and all of the user."""
    return _requests(
        connection,
        "user_id = ? AND (NOT incoming OR status = 'pending') ORDER BY updated_at DESC, request_id",
        user_id,
    )


def load_remote_request(connection: sqlite3.Connection, request_id: str) -> RemoteFriendRequest | None:
    """None if there is none."""
    if cleaned(request_id) != request_id:
        return None  # what SQLite takes for no text it cannot have stored
    found = _requests(connection, "request_id = ?", request_id)
    return found[0] if found else None


def put_remote_request(connection: sqlite3.Connection, request: RemoteFriendRequest) -> RemoteFriendRequest:
    """See :meth:`FederationStore.put_remote_request`."""
    known = load_remote_request(connection, request.request_id)
    if known is not None:
        if not is_same_request(known, request):
            raise AlreadyExistsError(f"there is another request {request.request_id}")
        return known
    pair = (request.from_address, request.to_address)
    before = _requests(connection, "from_address = ? AND to_address = ?", *pair)
    if any(not each.incoming and each.status is RequestStatus.PENDING for each in before):
        raise FriendRefusedError(FriendRefusal.REQUEST_PENDING)
    connection.execute(
        "DELETE FROM federated_friend_requests WHERE from_address = ? AND to_address = ?", pair
    )
    [count] = connection.execute(
        "SELECT count(*) FROM federated_friend_requests "
        "WHERE user_id = ? AND incoming = ? AND status = 'pending'",
        (request.user_id, request.incoming),
    ).fetchone()
    if count >= MAX_PENDING_REQUESTS:
        full = FriendRefusal.TOO_MANY_WAITING if request.incoming else FriendRefusal.TOO_MANY_SENT
        raise FriendRefusedError(full)
    try:
        connection.execute(
            f"INSERT INTO federated_friend_requests ({_REQUEST}) "  # noqa: S608 - names of ours
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                request.request_id,
                *pair,
                request.status.value,
                request.message,
                request.incoming,
                request.created_at,
                request.updated_at,
                request.user_id,
            ),
        )
    except sqlite3.IntegrityError as exc:
        raise StorageError(f"the request {request.request_id} cannot be stored: {exc}") from exc
    return request


def answer_remote_request(
    transaction: Transaction, request_id: str, accept: bool, now: int
) -> RemoteFriendRequest:
    """See :meth:`FederationStore.answer_remote_request`."""
    known = load_remote_request(transaction.connection, request_id)
    if known is None:
        raise FriendRefusedError(FriendRefusal.NO_REQUEST)
    status = RequestStatus.ACCEPTED if accept else RequestStatus.REJECTED
    if known.status is not RequestStatus.PENDING:
        if known.status is status:
            return known
        raise FriendRefusedError(FriendRefusal.NOT_PENDING)
    if accept:
        befriend(transaction, known.user_id, known.other_address, FriendRefusal.TOO_MANY_FRIENDS)
    transaction.connection.execute(
        "UPDATE federated_friend_requests SET status = ?, updated_at = ? WHERE request_id = ?",
        (status.value, now, request_id),
    )
    return attrs.evolve(known, status=status, updated_at=now)


def _requests(
    connection: sqlite3.Connection, condition: str, *values: object
) -> tuple[RemoteFriendRequest, ...]:
    rows = connection.execute(
        f"SELECT {_REQUEST} FROM federated_friend_requests WHERE {condition}",  # noqa: S608 - texts of ours
        values,
    )
    return tuple(map(request_of, rows))
