-- Who lists whom as a friend, and requests to become one.

-- friend_id may be of a user that does not exist: a list says whom its owner would take messages from.
CREATE TABLE friend (
    user_id   TEXT NOT NULL REFERENCES app_user (user_id) ON DELETE CASCADE,
    friend_id TEXT NOT NULL CHECK (friend_id <> ''),
    alias     TEXT,
    position  INTEGER NOT NULL,
    PRIMARY KEY (user_id, friend_id)
) STRICT, WITHOUT ROWID;

-- Times are microseconds here: they order the lists, and several requests may come in one second.
CREATE TABLE friend_requests (
    id           TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
    from_user_id TEXT NOT NULL,
    to_user_id   TEXT NOT NULL,
    status       TEXT NOT NULL,
    message      TEXT,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    UNIQUE (from_user_id, to_user_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX friend_requests_to ON friend_requests (to_user_id, status);

-- Encrypted attachments: the blob is a file, named by the same hash; what opens it only clients know.
CREATE TABLE attachment (
    id_hash    TEXT NOT NULL PRIMARY KEY CHECK (length(id_hash) = 64),
    user_id    TEXT NOT NULL REFERENCES app_user (user_id) ON DELETE CASCADE,
    size       INTEGER NOT NULL CHECK (size > 0),
    -- Bytes that are on disk for certain; what the file holds beyond is not counted and written anew.
    received   INTEGER NOT NULL CHECK (received BETWEEN 0 AND size),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX attachment_of_user ON attachment (user_id);
CREATE INDEX attachment_end ON attachment (expires_at);
CREATE INDEX app_user_avatar ON app_user (avatar_url) WHERE avatar_url IS NOT NULL;
