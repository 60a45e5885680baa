-- The schema that servers of this protocol have shared since 2025. Everything is created only when it
-- is absent, so that a database of another such server is taken over as it is. Never edit this file: add
-- the next number.

CREATE TABLE IF NOT EXISTS app_user (
    user_id      text NOT NULL PRIMARY KEY,
    handle       text NOT NULL UNIQUE,
    display_name text,
    avatar_url   text,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL
);

CREATE TABLE IF NOT EXISTS user_device (
    opaque_id  text NOT NULL PRIMARY KEY,
    user_id    text NOT NULL REFERENCES app_user (user_id) ON DELETE CASCADE,
    pubkey     bytea NOT NULL,
    status     text NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS user_device_user_idx ON user_device (user_id);

CREATE TABLE IF NOT EXISTS session (
    opaque_id       text NOT NULL PRIMARY KEY,
    user_id         text NOT NULL REFERENCES app_user (user_id) ON DELETE CASCADE,
    device_id       text NOT NULL REFERENCES user_device (opaque_id) ON DELETE CASCADE,
    tls_fingerprint text NOT NULL,
    created_at      timestamptz NOT NULL,
    ttl_seconds     bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS session_device_idx ON session (device_id);
CREATE INDEX IF NOT EXISTS session_user_idx ON session (user_id);

CREATE TABLE IF NOT EXISTS device_key_event (
    event_id    text NOT NULL PRIMARY KEY,
    device_id   text NOT NULL REFERENCES user_device (opaque_id) ON DELETE CASCADE,
    public_key  bytea NOT NULL,
    recorded_at timestamptz NOT NULL
);

CREATE TABLE IF NOT EXISTS chat_group (
    group_id     text NOT NULL PRIMARY KEY,
    owner_device text NOT NULL REFERENCES user_device (opaque_id) ON DELETE CASCADE,
    created_at   timestamptz NOT NULL
);

CREATE TABLE IF NOT EXISTS group_member (
    group_id  text NOT NULL REFERENCES chat_group (group_id) ON DELETE CASCADE,
    device_id text NOT NULL REFERENCES user_device (opaque_id) ON DELETE CASCADE,
    role      text NOT NULL,
    joined_at timestamptz NOT NULL,
    PRIMARY KEY (group_id, device_id)
);

CREATE TABLE IF NOT EXISTS federation_peer (
    domain     text NOT NULL PRIMARY KEY,
    endpoint   text NOT NULL,
    public_key bytea NOT NULL,
    status     text NOT NULL,
    updated_at timestamptz NOT NULL
);

CREATE TABLE IF NOT EXISTS idempotency (
    key        text NOT NULL,
    scope      text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (key, scope)
);

CREATE TABLE IF NOT EXISTS relay_queue (
    envelope_id   text NOT NULL PRIMARY KEY,
    channel_id    text NOT NULL,
    payload       bytea NOT NULL,
    deliver_after timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS relay_queue_channel_idx ON relay_queue (channel_id, deliver_after);

CREATE TABLE IF NOT EXISTS inbox_offset (
    entity_id        text NOT NULL,
    channel_id       text NOT NULL,
    last_envelope_id text,
    updated_at       timestamptz NOT NULL,
    PRIMARY KEY (entity_id, channel_id)
);
