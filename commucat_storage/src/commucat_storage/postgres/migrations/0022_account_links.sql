-- Accounts on two servers that belong to one person.

-- account is handle@domain. own_version and heard_version: of the last words of both servers, in microseconds.
-- expires_at (Unix seconds) NULL: the link holds. told: what the other server was told of the devices here, as the
-- row of the outbox with this number; offsets_version: of what it has told itself.
CREATE TABLE account_link (
    user_id         text NOT NULL REFERENCES app_user (user_id) ON DELETE CASCADE,
    account         text NOT NULL CHECK (account <> ''),
    declared        boolean NOT NULL,
    heard           boolean NOT NULL,
    own_version     bigint NOT NULL,
    heard_version   bigint NOT NULL,
    created_at      bigint NOT NULL,
    expires_at      bigint CHECK (expires_at IS NOT NULL OR (declared AND heard)),
    told            text,
    told_version    bigint NOT NULL DEFAULT 0,
    told_number     bigint,
    offsets_version bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, account)
);

CREATE INDEX account_link_end ON account_link (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX account_link_held ON account_link (user_id, account) WHERE expires_at IS NULL;

-- Where the inboxes of a linked account's devices stand, as its server has told.
CREATE TABLE linked_offset (
    user_id     text NOT NULL,
    account     text NOT NULL,
    device_id   text NOT NULL CHECK (device_id <> ''),
    epoch       text NOT NULL,
    next_number bigint NOT NULL,
    confirmed   bigint NOT NULL CHECK (confirmed >= 0 AND confirmed < next_number),
    waiting     bigint NOT NULL CHECK (waiting >= 0),
    PRIMARY KEY (user_id, account, device_id),
    FOREIGN KEY (user_id, account) REFERENCES account_link (user_id, account) ON DELETE CASCADE
);
