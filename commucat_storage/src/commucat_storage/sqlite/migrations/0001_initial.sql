-- The first schema. All times are whole Unix seconds. Never edit this file: add the next number.

CREATE TABLE app_user (
    user_id      TEXT NOT NULL PRIMARY KEY CHECK (user_id <> ''),
    handle       TEXT NOT NULL CHECK (handle <> ''),
    domain       TEXT NOT NULL,
    display_name TEXT,
    avatar_url   TEXT,
    created_at   INTEGER NOT NULL,
    UNIQUE (handle, domain)
) STRICT, WITHOUT ROWID;

-- Where an inbox stands. Rewritten by almost every commit, so it is small and has an integer key
-- and no index. It is updated in place, which keeps the foreign key from user_device free of cost.
CREATE TABLE inbox_offset (
    inbox       INTEGER PRIMARY KEY CHECK (inbox BETWEEN 1 AND 2147483647),
    epoch       TEXT NOT NULL CHECK (length(epoch) = 32),
    next_number INTEGER NOT NULL CHECK (next_number BETWEEN 1 AND 4294967296),
    confirmed   INTEGER NOT NULL CHECK (confirmed >= 0 AND confirmed < next_number),
    rows        INTEGER NOT NULL CHECK (rows >= 0),
    bytes       INTEGER NOT NULL CHECK (bytes >= 0),
    -- How many of the rows refer to relay_payload.
    shared      INTEGER NOT NULL CHECK (shared >= 0),
    -- No row of the inbox expires before this. It may be too low, never too high, so that
    -- looking for expired messages touches only inboxes that can have one.
    earliest    INTEGER NOT NULL
) STRICT;

CREATE TABLE user_device (
    device_id  TEXT NOT NULL PRIMARY KEY CHECK (device_id <> ''),
    user_id    TEXT NOT NULL REFERENCES app_user (user_id) ON DELETE CASCADE,
    public_key BLOB NOT NULL CHECK (length(public_key) = 32),
    status     TEXT NOT NULL CHECK (status IN ('active', 'revoked', 'diagnostic')),
    created_at INTEGER NOT NULL,
    inbox      INTEGER NOT NULL UNIQUE REFERENCES inbox_offset (inbox)
) STRICT, WITHOUT ROWID;

CREATE INDEX user_device_of_user ON user_device (user_id);

-- The messages. position = inbox * 2^32 + number: one integer key keeps each inbox together
-- and in order, costs 8 bytes instead of a device id of 64, and lets payloads stay in the leaf
-- pages. A message for one device has its payload here; a fanned-out one refers to relay_payload.
-- payload_id has no foreign key: deleting a payload would search this whole table.
CREATE TABLE relay_queue (
    position   INTEGER PRIMARY KEY,
    frame_type INTEGER NOT NULL,
    channel    INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    size       INTEGER NOT NULL,
    payload    BLOB,
    payload_id INTEGER,
    CHECK ((payload IS NULL) <> (payload_id IS NULL))
) STRICT;

CREATE TABLE relay_payload (
    payload_id INTEGER PRIMARY KEY,
    -- Rows of relay_queue that refer to it; at 0 it is deleted in the same transaction.
    refs       INTEGER NOT NULL CHECK (refs >= 0),
    payload    BLOB NOT NULL
) STRICT;

CREATE INDEX relay_payload_unused ON relay_payload (payload_id) WHERE refs = 0;

-- Where a device's own frames on a channel go; members is a JSON array of device ids.
CREATE TABLE route (
    device_id TEXT NOT NULL REFERENCES user_device (device_id) ON DELETE CASCADE,
    channel   INTEGER NOT NULL CHECK (channel BETWEEN 0 AND 4294967295),
    relay     INTEGER NOT NULL CHECK (relay IN (0, 1)),
    members   TEXT NOT NULL CHECK (json_type(members) = 'array'),
    PRIMARY KEY (device_id, channel)
) STRICT, WITHOUT ROWID;

CREATE TABLE session (
    token_hash      TEXT NOT NULL PRIMARY KEY CHECK (token_hash <> ''),
    user_id         TEXT NOT NULL REFERENCES app_user (user_id) ON DELETE CASCADE,
    device_id       TEXT NOT NULL REFERENCES user_device (device_id) ON DELETE CASCADE,
    created_at      INTEGER NOT NULL,
    refreshed_at    INTEGER NOT NULL,
    ttl_seconds     INTEGER NOT NULL,
    tls_fingerprint TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX session_of_device ON session (device_id);
CREATE INDEX session_of_user ON session (user_id);
CREATE INDEX session_end ON session (refreshed_at + ttl_seconds);

CREATE TABLE device_key_event (
    event_id    TEXT NOT NULL PRIMARY KEY,
    device_id   TEXT NOT NULL REFERENCES user_device (device_id) ON DELETE CASCADE,
    public_key  BLOB NOT NULL CHECK (length(public_key) = 32),
    recorded_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX device_key_event_of_device ON device_key_event (device_id, recorded_at);

-- serial is an unsigned 64-bit number in decimal; SQLite's integers end one bit earlier.
CREATE TABLE device_certificates (
    serial     TEXT NOT NULL PRIMARY KEY,
    user_id    TEXT NOT NULL REFERENCES app_user (user_id) ON DELETE CASCADE,
    device_id  TEXT NOT NULL REFERENCES user_device (device_id) ON DELETE CASCADE,
    public_key BLOB NOT NULL CHECK (length(public_key) = 32),
    issuer     BLOB NOT NULL CHECK (length(issuer) = 32),
    issued_at  INTEGER NOT NULL,
    expires_at INTEGER NOT NULL CHECK (expires_at > issued_at),
    signature  BLOB NOT NULL CHECK (length(signature) = 64),
    source     TEXT NOT NULL,
    revoked_at INTEGER
) STRICT;

CREATE INDEX device_certificates_of_device ON device_certificates (device_id, issued_at);

CREATE TABLE enrolment_code (
    code_hash  BLOB NOT NULL PRIMARY KEY,
    user_id    TEXT NOT NULL REFERENCES app_user (user_id) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at    INTEGER,
    used_by    TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX enrolment_code_of_user ON enrolment_code (user_id);
CREATE INDEX enrolment_code_end ON enrolment_code (expires_at);

CREATE TABLE server_secret (
    name        TEXT NOT NULL,
    version     INTEGER NOT NULL CHECK (version >= 1),
    secret      BLOB NOT NULL,
    public      BLOB,
    metadata    TEXT NOT NULL CHECK (json_valid(metadata)),
    created_at  INTEGER NOT NULL,
    valid_after INTEGER NOT NULL,
    rotates_at  INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (name, version)
) STRICT, WITHOUT ROWID;

-- One row that readiness checks rewrite: the only proof that the disk takes writes is a write.
CREATE TABLE readiness (
    only    INTEGER PRIMARY KEY CHECK (only = 1),
    checks  INTEGER NOT NULL
) STRICT;

-- For people with a SQLite shell.
CREATE VIEW relay_message AS
SELECT d.device_id, q.position & 4294967295 AS number, q.frame_type, q.channel, q.expires_at, q.size
FROM relay_queue AS q JOIN user_device AS d ON d.inbox = q.position >> 32;
