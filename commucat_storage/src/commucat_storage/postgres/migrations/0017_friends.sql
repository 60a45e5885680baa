-- Friends as rows instead of one text for each user; encrypted attachments.

CREATE TABLE friend (
    user_id   text NOT NULL REFERENCES app_user (user_id) ON DELETE CASCADE,
    -- May be of a user that does not exist: a list says whom its owner would take messages from.
    friend_id text NOT NULL CHECK (friend_id <> ''),
    alias     text,
    position  bigint NOT NULL,
    PRIMARY KEY (user_id, friend_id)
);

-- Lists that another server kept as JSON: an array of {"user_id" (or "id"), "alias"}. One that cannot be
-- read stays where it is, for a person to look at.
CREATE FUNCTION pg_temp.adopt_friends() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    list record;
BEGIN
    FOR list IN SELECT user_id, payload FROM user_blob WHERE key = 'friends'
    LOOP
        BEGIN
            IF btrim(list.payload) <> '' THEN
                INSERT INTO friend (user_id, friend_id, alias, position)
                SELECT list.user_id, coalesce(entry ->> 'user_id', entry ->> 'id'), entry ->> 'alias', place
                FROM json_array_elements(list.payload::json) WITH ORDINALITY AS e (entry, place)
                ORDER BY place LIMIT 512
                ON CONFLICT DO NOTHING;
            END IF;
            DELETE FROM user_blob WHERE user_id = list.user_id AND key = 'friends';
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'the list of friends of % is left out: %', list.user_id, SQLERRM;
        END;
    END LOOP;
END $$;
SELECT pg_temp.adopt_friends();
DROP FUNCTION pg_temp.adopt_friends();

CREATE INDEX friend_requests_waiting_idx ON friend_requests (to_user_id) WHERE status = 'pending';

-- The blob is a file, named by the same hash; what opens it only clients know.
CREATE TABLE attachment (
    id_hash    text PRIMARY KEY CHECK (length(id_hash) = 64),
    user_id    text NOT NULL REFERENCES app_user (user_id) ON DELETE CASCADE,
    size       bigint NOT NULL CHECK (size > 0),
    -- Bytes that are on disk for certain; what the file holds beyond is not counted and written anew.
    received   bigint NOT NULL CHECK (received BETWEEN 0 AND size),
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX attachment_user_idx ON attachment (user_id);
CREATE INDEX attachment_end_idx ON attachment (expires_at);
CREATE INDEX app_user_avatar_idx ON app_user (avatar_url) WHERE avatar_url IS NOT NULL;

-- Caches learn of friends with the first change; what they remember from before knows none.
UPDATE inbox_offset SET relations = relations + 1;
