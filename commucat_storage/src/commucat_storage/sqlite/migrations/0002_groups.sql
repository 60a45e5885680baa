-- Groups of devices, routes that lead to a group, and what an inbox holds of strangers.

CREATE TABLE chat_group (
    group_id   TEXT NOT NULL PRIMARY KEY CHECK (group_id <> ''),
    relay      INTEGER NOT NULL CHECK (relay IN (0, 1)),
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE group_member (
    group_id  TEXT NOT NULL REFERENCES chat_group (group_id) ON DELETE CASCADE,
    device_id TEXT NOT NULL REFERENCES user_device (device_id) ON DELETE CASCADE,
    role      TEXT NOT NULL CHECK (role IN ('owner', 'co-owner', 'admin', 'member')),
    joined_at INTEGER NOT NULL,
    -- Whether the device wants to be in it: it joined the group itself, or somebody put it in who was
    -- no stranger to it. Otherwise anybody could end being a stranger by an invitation.
    accepted  INTEGER NOT NULL CHECK (accepted IN (0, 1)),
    PRIMARY KEY (group_id, device_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX group_member_of_device ON group_member (device_id);
CREATE UNIQUE INDEX group_member_owner ON group_member (group_id) WHERE role = 'owner';
CREATE INDEX group_member_owned ON group_member (device_id) WHERE role = 'owner';

-- A route to a group names no members of its own.
ALTER TABLE route ADD COLUMN group_id TEXT REFERENCES chat_group (group_id) ON DELETE CASCADE;
CREATE INDEX route_of_group ON route (group_id) WHERE group_id IS NOT NULL;

-- Rows of senders that the receiver had no relation to when they came, and what they take of its inbox.
ALTER TABLE relay_queue ADD COLUMN stranger INTEGER NOT NULL DEFAULT 0 CHECK (stranger IN (0, 1));
ALTER TABLE inbox_offset ADD COLUMN stranger_rows INTEGER NOT NULL DEFAULT 0 CHECK (stranger_rows >= 0);
ALTER TABLE inbox_offset ADD COLUMN stranger_bytes INTEGER NOT NULL DEFAULT 0 CHECK (stranger_bytes >= 0);

-- The sender, if it asked to be told when the message expires.
ALTER TABLE relay_queue ADD COLUMN reporter TEXT;
