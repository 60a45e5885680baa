-- Groups with members on several servers. The one where a group was made is its home; the others have replicas.

-- The domain of the home; NULL: this server. revision counts changes of the members; version, which processes
-- compare, is a matter of this database alone.
ALTER TABLE chat_group ADD COLUMN home text CHECK (home <> ''),
    ADD COLUMN revision bigint NOT NULL DEFAULT 0 CHECK (revision >= 0);

-- A member, and so an owner, may be a device of another server, device@domain: there are no foreign keys.
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT conrelid::regclass AS relation, conname FROM pg_constraint
        WHERE contype = 'f' AND conrelid IN ('chat_group'::regclass, 'group_member'::regclass)
            AND confrelid = 'user_device'::regclass
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', found.relation, found.conname);
    END LOOP;
END $$;
CREATE INDEX chat_group_owner_idx ON chat_group (owner_device);
CREATE FUNCTION delete_memberships_of_device() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM chat_group WHERE owner_device = OLD.opaque_id;
    DELETE FROM group_member WHERE device_id = OLD.opaque_id;
    RETURN NULL;
END $$;
CREATE TRIGGER user_device_leaves_groups AFTER DELETE ON user_device
    FOR EACH ROW EXECUTE FUNCTION delete_memberships_of_device();

-- Of rows of outboxes only: the group that the message was written to, if it was.
ALTER TABLE relay_queue ADD COLUMN group_id text;
ALTER TABLE federation_dead_letter ADD COLUMN group_id text;
