-- What this server asks of users, devices and sessions beyond the shared schema.

-- A handle is unique within its domain, which app_user_handle_domain_idx keeps so.
DO $$
DECLARE
    found text;
BEGIN
    FOR found IN
        SELECT conname FROM pg_constraint WHERE conrelid = 'app_user'::regclass AND contype = 'u'
        AND conkey = ARRAY[(SELECT attnum FROM pg_attribute
            WHERE attrelid = 'app_user'::regclass AND attname = 'handle')]
    LOOP
        EXECUTE format('ALTER TABLE app_user DROP CONSTRAINT %I', found);
    END LOOP;
END $$;
ALTER TABLE app_user ALTER COLUMN updated_at SET DEFAULT now();

-- Rows of another server stay as they are; new ones must fit.
ALTER TABLE user_device ADD CONSTRAINT user_device_status_check
    CHECK (status IN ('active', 'revoked', 'diagnostic')) NOT VALID;
ALTER TABLE user_device ADD CONSTRAINT user_device_pubkey_check
    CHECK (octet_length(pubkey) = 32) NOT VALID;

-- A session is found by the hash of its token. Other servers stored the token itself, and made it of a
-- clock: those sessions end here, and their devices connect anew.
DELETE FROM session;
ALTER TABLE session ALTER COLUMN refreshed_at SET NOT NULL;
CREATE INDEX session_end_idx ON session ((refreshed_at AT TIME ZONE 'UTC' + ttl_seconds * interval '1 second'));

-- As text: the stored characters are what was signed or compared.
ALTER TABLE server_secret ALTER COLUMN metadata DROP DEFAULT,
    ALTER COLUMN metadata TYPE json USING metadata::json,
    ALTER COLUMN metadata SET DEFAULT '{}';

-- The order of certificates that were issued in the same second.
ALTER TABLE device_certificates ADD COLUMN position bigint GENERATED ALWAYS AS IDENTITY;

CREATE TABLE enrolment_code (
    code_hash  bytea NOT NULL PRIMARY KEY,
    user_id    text NOT NULL REFERENCES app_user (user_id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at    timestamptz,
    used_by    text
);
CREATE INDEX enrolment_code_user_idx ON enrolment_code (user_id);
CREATE INDEX enrolment_code_end_idx ON enrolment_code (expires_at);

-- One row that readiness checks rewrite: the only proof that the database takes writes is a write.
CREATE TABLE readiness (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    checks   bigint NOT NULL
);

-- Whose database this is: two servers that do not know of each other must not share one.
CREATE TABLE cluster (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    cluster_id uuid NOT NULL DEFAULT gen_random_uuid(),
    domain     text,
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO cluster DEFAULT VALUES;
