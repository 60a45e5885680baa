-- Other servers, and the queue of what is on its way to each of them: one more inbox.

-- The outbox of a domain; closed, it takes nothing new.
CREATE TABLE outbox (
    domain TEXT NOT NULL PRIMARY KEY CHECK (domain <> ''),
    open   INTEGER NOT NULL CHECK (open IN (0, 1)),
    inbox  INTEGER NOT NULL UNIQUE REFERENCES inbox_offset (inbox)
) STRICT, WITHOUT ROWID;

-- Of rows of outboxes only: the device here that sent it (empty for the server), and for whom it is, as named.
ALTER TABLE relay_queue ADD COLUMN sender TEXT;
ALTER TABLE relay_queue ADD COLUMN target TEXT;

-- For people with a SQLite shell.
CREATE VIEW outbox_message AS
SELECT x.domain, q.position & 4294967295 AS number, q.frame_type, q.channel, q.expires_at, q.size, q.sender, q.target
FROM relay_queue AS q JOIN outbox AS x ON x.inbox = q.position >> 32;

-- An @ in the id of a device means: of another server.
CREATE TRIGGER user_device_is_here BEFORE INSERT ON user_device WHEN instr(NEW.device_id, '@') > 0
BEGIN
    SELECT RAISE(ABORT, 'the id of a device has an @');
END;

-- Those that an operator or discovery has stored; the others are in the configuration.
CREATE TABLE federation_peer (
    domain     TEXT NOT NULL PRIMARY KEY CHECK (domain <> ''),
    endpoint   TEXT NOT NULL,
    public_key BLOB NOT NULL CHECK (length(public_key) = 32),
    status     TEXT NOT NULL CHECK (status IN ('active', 'pending', 'blocked')),
    next_key   BLOB CHECK (length(next_key) = 32),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE federation_peer_status (
    domain       TEXT NOT NULL PRIMARY KEY CHECK (domain <> ''),
    status       TEXT NOT NULL,
    error_count  INTEGER NOT NULL,
    last_seen_at INTEGER,
    last_error   TEXT,
    updated_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What a peer has refused for good. number is that of the row in the outbox.
CREATE TABLE federation_dead_letter (
    letter_id  TEXT NOT NULL PRIMARY KEY CHECK (letter_id <> ''),
    domain     TEXT NOT NULL,
    number     INTEGER NOT NULL,
    sender     TEXT NOT NULL,
    target     TEXT NOT NULL,
    channel    INTEGER NOT NULL,
    frame_type INTEGER NOT NULL,
    payload    BLOB NOT NULL,
    reason     TEXT NOT NULL,
    report     INTEGER NOT NULL CHECK (report IN (0, 1)),
    reference  BLOB NOT NULL,
    expires_at INTEGER NOT NULL,
    failed_at  INTEGER NOT NULL
) STRICT;

CREATE INDEX federation_dead_letter_newest ON federation_dead_letter (failed_at, number);
CREATE INDEX federation_dead_letter_of_domain ON federation_dead_letter (domain, failed_at, number);
CREATE INDEX federation_dead_letter_end ON federation_dead_letter (expires_at);

-- Names of messages that are stored once.
CREATE TABLE idempotency (
    key        TEXT NOT NULL,
    scope      TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (key, scope)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_end ON idempotency (expires_at);

-- Times are microseconds, as in friend_requests.
CREATE TABLE federated_friend_requests (
    request_id   TEXT NOT NULL PRIMARY KEY CHECK (request_id <> ''),
    user_id      TEXT NOT NULL REFERENCES app_user (user_id) ON DELETE CASCADE,
    incoming     INTEGER NOT NULL CHECK (incoming IN (0, 1)),
    from_address TEXT NOT NULL,
    to_address   TEXT NOT NULL,
    status       TEXT NOT NULL CHECK (status IN ('pending', 'accepted', 'rejected')),
    message      TEXT,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    UNIQUE (from_address, to_address)
) STRICT, WITHOUT ROWID;

CREATE INDEX federated_friend_requests_of_user ON federated_friend_requests (user_id, incoming, status);
