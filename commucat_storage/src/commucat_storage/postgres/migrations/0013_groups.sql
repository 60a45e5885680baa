-- Groups have exactly one owner, and members that agreed to be in them or were put into them.

ALTER TABLE chat_group ADD COLUMN relay boolean NOT NULL DEFAULT true,
    -- Counts changes of the members.
    ADD COLUMN version bigint NOT NULL DEFAULT 0;

-- Another server may have let anybody become an owner too, and knew nothing of agreement.
ALTER TABLE group_member ADD COLUMN accepted boolean NOT NULL DEFAULT true;
UPDATE group_member SET role = 'admin' WHERE role = 'owner';
UPDATE group_member SET role = 'member' WHERE role NOT IN ('admin', 'co-owner', 'member');
INSERT INTO group_member (group_id, device_id, role, joined_at)
SELECT group_id, owner_device, 'owner', created_at FROM chat_group
ON CONFLICT (group_id, device_id) DO UPDATE SET role = 'owner';
ALTER TABLE group_member ALTER COLUMN accepted DROP DEFAULT,
    ADD CHECK (role IN ('owner', 'co-owner', 'admin', 'member'));

CREATE INDEX group_member_device_idx ON group_member (device_id);
CREATE UNIQUE INDEX group_member_owner_idx ON group_member (group_id) WHERE role = 'owner';
CREATE INDEX group_member_owned_idx ON group_member (device_id) WHERE role = 'owner';
