-- Accounts on two servers that belong to one person.

-- account is handle@domain. own_version and heard_version: of the last words of both servers, in microseconds.
-- expires_at NULL: the link holds. told: what the other server was told of the devices here, as the row of the
-- outbox with this number; offsets_version: of what it has told itself.
CREATE TABLE account_link (
    user_id         TEXT NOT NULL REFERENCES app_user (user_id) ON DELETE CASCADE,
    account         TEXT NOT NULL CHECK (account <> ''),
    declared        INTEGER NOT NULL CHECK (declared IN (0, 1)),
    heard           INTEGER NOT NULL CHECK (heard IN (0, 1)),
    own_version     INTEGER NOT NULL,
    heard_version   INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    expires_at      INTEGER CHECK (expires_at IS NOT NULL OR (declared AND heard)),
    told            TEXT,
    told_version    INTEGER NOT NULL DEFAULT 0,
    told_number     INTEGER,
    offsets_version INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, account)
) STRICT, WITHOUT ROWID;

CREATE INDEX account_link_end ON account_link (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX account_link_held ON account_link (user_id, account) WHERE expires_at IS NULL;

-- Where the inboxes of a linked account's devices stand, as its server has told.
CREATE TABLE linked_offset (
    user_id     TEXT NOT NULL,
    account     TEXT NOT NULL,
    device_id   TEXT NOT NULL CHECK (device_id <> ''),
    epoch       TEXT NOT NULL,
    next_number INTEGER NOT NULL,
    confirmed   INTEGER NOT NULL CHECK (confirmed >= 0 AND confirmed < next_number),
    waiting     INTEGER NOT NULL CHECK (waiting >= 0),
    PRIMARY KEY (user_id, account, device_id),
    FOREIGN KEY (user_id, account) REFERENCES account_link (user_id, account) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
