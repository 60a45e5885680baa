-- Groups with members on several servers. The one where a group was made is its home; the others have replicas.

-- The domain of the home; NULL: this server. revision counts changes of the members.
ALTER TABLE chat_group ADD COLUMN home TEXT CHECK (home <> '');
ALTER TABLE chat_group ADD COLUMN revision INTEGER NOT NULL DEFAULT 0 CHECK (revision >= 0);

-- A member may be a device of another server, device@domain, so there is no foreign key.
CREATE TABLE member_of_any_server (
    group_id  TEXT NOT NULL REFERENCES chat_group (group_id) ON DELETE CASCADE,
    device_id TEXT NOT NULL CHECK (device_id <> ''),
    role      TEXT NOT NULL CHECK (role IN ('owner', 'co-owner', 'admin', 'member')),
    joined_at INTEGER NOT NULL,
    -- Whether the device wants to be in it: it joined the group itself, or somebody put it in who was
    -- no stranger to it. Otherwise anybody could end being a stranger by an invitation.
    accepted  INTEGER NOT NULL CHECK (accepted IN (0, 1)),
    PRIMARY KEY (group_id, device_id)
) STRICT, WITHOUT ROWID;
INSERT INTO member_of_any_server SELECT group_id, device_id, role, joined_at, accepted FROM group_member;
DROP TABLE group_member;
ALTER TABLE member_of_any_server RENAME TO group_member;
CREATE INDEX group_member_of_device ON group_member (device_id);
CREATE UNIQUE INDEX group_member_owner ON group_member (group_id) WHERE role = 'owner';
CREATE INDEX group_member_owned ON group_member (device_id) WHERE role = 'owner';

CREATE TRIGGER user_device_leaves_groups AFTER DELETE ON user_device
BEGIN
    DELETE FROM group_member WHERE device_id = OLD.device_id;
END;

-- Of rows of outboxes only: the group that the message was written to, if it was.
ALTER TABLE relay_queue ADD COLUMN group_id TEXT;
ALTER TABLE federation_dead_letter ADD COLUMN group_id TEXT;
