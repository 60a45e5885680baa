-- Other servers, and the queue of what is on its way to each of them: one more inbox.

-- An outbox has no device. Its inbox is called @domain, which no device is; those of devices still go with them.
DO $$
DECLARE
    found text;
BEGIN
    FOR found IN
        SELECT conname FROM pg_constraint WHERE conrelid = 'inbox_offset'::regclass AND contype = 'f'
    LOOP
        EXECUTE format('ALTER TABLE inbox_offset DROP CONSTRAINT %I', found);
    END LOOP;
END $$;
CREATE FUNCTION delete_inbox_of_device() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM inbox_offset WHERE entity_id = OLD.opaque_id;
    RETURN NULL;
END $$;
CREATE TRIGGER user_device_deleted AFTER DELETE ON user_device
    FOR EACH ROW EXECUTE FUNCTION delete_inbox_of_device();
-- An @ in the id of a device means: of another server. Not a CHECK: an old device that has one can be revoked.
CREATE FUNCTION refuse_device_elsewhere() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the id of a device has an @' USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER user_device_is_here BEFORE INSERT ON user_device
    FOR EACH ROW WHEN (strpos(NEW.opaque_id, '@') > 0) EXECUTE FUNCTION refuse_device_elsewhere();

-- The outbox of a domain; closed, it takes nothing new. Whoever changes it raises relations of its inbox.
CREATE TABLE outbox (
    domain text PRIMARY KEY CHECK (domain <> ''),
    open   boolean NOT NULL
);

-- Of rows of outboxes only: the device here that sent it (empty for the server), and for whom it is, as named.
ALTER TABLE relay_queue ADD COLUMN sender text, ADD COLUMN target text;

-- Events that another server has left are signed JSON around whole frames:
-- varint(length) type:1 varint(channel) varint(sequence) varint(length) payload.
CREATE FUNCTION pg_temp.varint(bytes bytea, start integer, OUT value numeric, OUT next integer)
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    byte integer;
    factor numeric := 1;
BEGIN
    value := 0;
    next := start;
    FOR i IN 1..10 LOOP
        byte := get_byte(bytes, next);
        next := next + 1;
        value := value + (byte & 127) * factor;
        IF byte < 128 THEN
            RETURN;
        END IF;
        factor := factor * 128;
    END LOOP;
    RAISE EXCEPTION 'varint too long';
END $$;

CREATE FUNCTION pg_temp.adopt_outbox() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    event record;
    home record;
    frame bytea;
    body record;
    channel_of record;
    sequence_of record;
    length_of record;
    message bytea;
    target text;
BEGIN
    FOR event IN
        SELECT outbox_id, lower(destination_domain) AS domain, payload #> '{event,payload}' AS inner_payload,
            created_at + interval '30 days' AS expires_at
        FROM federation_outbox ORDER BY created_at, outbox_id
    LOOP
        BEGIN
            IF event.inner_payload IS NULL THEN
                RAISE EXCEPTION 'it is no message';
            END IF;
            target := event.inner_payload ->> 'target';
            IF position('@' IN target) < 2 OR lower(substr(target, position('@' IN target) + 1)) <> event.domain
            THEN
                RAISE EXCEPTION 'it is for another domain';
            END IF;
            frame := decode(event.inner_payload ->> 'payload', 'hex');
            body := pg_temp.varint(frame, 0);
            channel_of := pg_temp.varint(frame, body.next + 1);
            sequence_of := pg_temp.varint(frame, channel_of.next);
            length_of := pg_temp.varint(frame, sequence_of.next);
            message := substr(frame, length_of.next + 1, length_of.value::integer);
            IF octet_length(message) <> length_of.value THEN
                RAISE EXCEPTION 'frame cut short';
            END IF;
            INSERT INTO outbox (domain, open) VALUES (event.domain, false) ON CONFLICT DO NOTHING;
            INSERT INTO inbox_offset (entity_id, epoch)
                VALUES ('@' || event.domain, replace(gen_random_uuid()::text, '-', '')) ON CONFLICT DO NOTHING;
            UPDATE inbox_offset SET next_number = next_number + 1, rows = rows + 1,
                bytes = bytes + octet_length(message),
                earliest = least(earliest, floor(extract(epoch FROM event.expires_at))::bigint)
            WHERE entity_id = '@' || event.domain
            RETURNING inbox, next_number - 1 AS number INTO STRICT home;
            INSERT INTO relay_queue
                (position, frame_type, channel, expires_at, size, payload, sender, target)
            VALUES ((home.inbox << 32) + home.number, get_byte(frame, body.next), channel_of.value::bigint,
                event.expires_at, octet_length(message), message,
                coalesce(event.inner_payload ->> 'sender', ''), target);
            DELETE FROM federation_outbox WHERE outbox_id = event.outbox_id;
        EXCEPTION WHEN OTHERS THEN
            -- It stays where it is, for a person to look at. A friend request is also in its own table.
            RAISE WARNING 'the event % for % is left out: %', event.outbox_id, event.domain, SQLERRM;
        END;
    END LOOP;
END $$;
SELECT pg_temp.adopt_outbox();
DROP FUNCTION pg_temp.adopt_outbox(), pg_temp.varint(bytea, integer);

-- Peers: what cannot be used is blocked, and told.
CREATE FUNCTION pg_temp.adopt_peers() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    found text;
BEGIN
    FOR found IN DELETE FROM federation_peer AS p WHERE EXISTS (
        SELECT FROM federation_peer AS q WHERE lower(q.domain) = lower(p.domain) AND q.domain <> p.domain
            AND (q.updated_at, q.domain) > (p.updated_at, p.domain)) RETURNING domain
    LOOP
        RAISE WARNING 'the peer % is left out: there is a newer one of another spelling', found;
    END LOOP;
    FOR found IN DELETE FROM federation_peer WHERE octet_length(public_key) <> 32 OR domain = ''
        RETURNING domain
    LOOP
        RAISE WARNING 'the peer % is left out: its key has not 32 bytes', found;
    END LOOP;
    FOR found IN UPDATE federation_peer SET status = 'blocked'
        WHERE status NOT IN ('active', 'pending', 'blocked') RETURNING domain
    LOOP
        RAISE WARNING 'the peer % is blocked: its status was unknown', found;
    END LOOP;
    UPDATE federation_peer SET domain = lower(domain) WHERE domain <> lower(domain);
END $$;
SELECT pg_temp.adopt_peers();
DROP FUNCTION pg_temp.adopt_peers();
ALTER TABLE federation_peer
    ADD COLUMN next_key bytea CHECK (octet_length(next_key) = 32),
    ADD COLUMN created_at timestamptz,
    ADD CHECK (domain <> ''), ADD CHECK (octet_length(public_key) = 32),
    ADD CHECK (status IN ('active', 'pending', 'blocked'));
UPDATE federation_peer SET created_at = updated_at;
ALTER TABLE federation_peer ALTER COLUMN created_at SET NOT NULL;

-- What was here said again what federation_peer says.
ALTER TABLE federation_peer_status DROP COLUMN endpoint, DROP COLUMN public_key, DROP COLUMN created_at,
    ALTER COLUMN error_count TYPE bigint;

-- What a peer has refused for good. number is that of the row in the outbox.
CREATE TABLE federation_dead_letter (
    letter_id  text PRIMARY KEY CHECK (letter_id <> ''),
    domain     text NOT NULL,
    number     bigint NOT NULL,
    sender     text NOT NULL,
    target     text NOT NULL,
    channel    bigint NOT NULL,
    frame_type smallint NOT NULL,
    payload    bytea NOT NULL,
    reason     text NOT NULL,
    report     boolean NOT NULL,
    reference  bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    failed_at  timestamptz NOT NULL
);
CREATE INDEX federation_dead_letter_newest_idx ON federation_dead_letter (failed_at, number);
CREATE INDEX federation_dead_letter_domain_idx ON federation_dead_letter (domain, failed_at, number);
CREATE INDEX federation_dead_letter_end_idx ON federation_dead_letter (expires_at);

-- Names of messages that are stored once, until their own time is over; those of before for a week.
ALTER TABLE idempotency ADD COLUMN expires_at timestamptz;
UPDATE idempotency SET expires_at = created_at + interval '7 days';
ALTER TABLE idempotency DROP COLUMN created_at, ALTER COLUMN expires_at SET NOT NULL;
CREATE INDEX idempotency_end_idx ON idempotency (expires_at);

-- Friend requests: whose they are here is a column, and so is which way they go.
ALTER TABLE federated_friend_requests
    ADD COLUMN user_id text REFERENCES app_user (user_id) ON DELETE CASCADE,
    ADD COLUMN incoming boolean,
    ADD COLUMN from_address text,
    ADD COLUMN to_address text;
UPDATE federated_friend_requests AS r SET
    from_address = CASE WHEN r.from_user_id LIKE '%@%' THEN r.from_user_id ELSE
        coalesce((SELECT handle FROM app_user AS u WHERE u.user_id = r.from_user_id), r.from_user_id)
        || '@' || lower(r.from_domain) END,
    to_address = CASE WHEN r.to_user_id LIKE '%@%' THEN r.to_user_id ELSE
        coalesce((SELECT handle FROM app_user AS u WHERE u.user_id = r.to_user_id), r.to_user_id)
        || '@' || lower(r.to_domain) END,
    status = CASE WHEN r.status IN ('pending', 'accepted', 'rejected') THEN r.status ELSE 'rejected' END;
UPDATE federated_friend_requests AS r SET user_id = found.user_id, incoming = found.incoming
FROM (
    SELECT DISTINCT ON (q.request_id) q.request_id, u.user_id,
        u.user_id = q.to_user_id OR (u.user_id <> q.from_user_id AND u.handle = split_part(q.to_address, '@', 1)) AS incoming
    FROM federated_friend_requests AS q JOIN app_user AS u
        ON u.user_id IN (q.from_user_id, q.to_user_id)
        OR (u.handle = split_part(q.to_address, '@', 1) AND u.domain IN ('local', q.to_domain))
        OR (u.handle = split_part(q.from_address, '@', 1) AND u.domain IN ('local', q.from_domain))
    ORDER BY q.request_id, (u.user_id = q.from_user_id) DESC, (u.user_id = q.to_user_id) DESC,
        (u.handle = split_part(q.to_address, '@', 1)) DESC, u.user_id
) AS found WHERE found.request_id = r.request_id;
CREATE FUNCTION pg_temp.forget_requests() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    found text;
BEGIN
    FOR found IN DELETE FROM federated_friend_requests WHERE user_id IS NULL RETURNING request_id LOOP
        RAISE WARNING 'the friend request % is left out: it is of nobody here', found;
    END LOOP;
    FOR found IN DELETE FROM federated_friend_requests AS r WHERE EXISTS (
        SELECT FROM federated_friend_requests AS q
        WHERE q.from_address = r.from_address AND q.to_address = r.to_address
            AND (q.updated_at, q.request_id) > (r.updated_at, r.request_id)) RETURNING request_id
    LOOP
        RAISE WARNING 'the friend request % is left out: there is a newer one of the same users', found;
    END LOOP;
END $$;
SELECT pg_temp.forget_requests();
DROP FUNCTION pg_temp.forget_requests();
ALTER TABLE federated_friend_requests
    DROP COLUMN from_user_id, DROP COLUMN to_user_id, DROP COLUMN from_domain, DROP COLUMN to_domain,
    DROP COLUMN federation_event_id,
    ALTER COLUMN user_id SET NOT NULL, ALTER COLUMN incoming SET NOT NULL,
    ALTER COLUMN from_address SET NOT NULL, ALTER COLUMN to_address SET NOT NULL,
    ADD CHECK (status IN ('pending', 'accepted', 'rejected')),
    ADD UNIQUE (from_address, to_address);
CREATE INDEX federated_friend_requests_user_idx ON federated_friend_requests (user_id, incoming, status);
