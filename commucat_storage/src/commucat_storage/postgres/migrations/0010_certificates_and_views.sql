-- Certificates and calls, and the other names by which people know the tables. From here on every
-- migration may rely on what came before it.

CREATE TABLE device_certificates (
    serial     numeric(20, 0) PRIMARY KEY CHECK (serial >= 0 AND serial < 18446744073709551616),
    user_id    text NOT NULL REFERENCES app_user (user_id) ON DELETE CASCADE,
    device_id  text NOT NULL REFERENCES user_device (opaque_id) ON DELETE CASCADE,
    public_key bytea NOT NULL CHECK (octet_length(public_key) = 32),
    issuer     bytea NOT NULL CHECK (octet_length(issuer) = 32),
    issued_at  timestamptz NOT NULL,
    expires_at timestamptz NOT NULL CHECK (expires_at > issued_at),
    signature  bytea NOT NULL CHECK (octet_length(signature) = 64),
    source     text NOT NULL,
    revoked_at timestamptz
);
CREATE INDEX device_certificates_device_idx ON device_certificates (device_id, issued_at DESC);

CREATE TABLE call_sessions (
    call_id          text PRIMARY KEY,
    channel_id       numeric(20, 0) NOT NULL,
    group_id         text,
    initiator_device text NOT NULL,
    mode             text NOT NULL CHECK (mode IN ('full_duplex', 'half_duplex')),
    participants     text[] NOT NULL,
    accepted         text[] NOT NULL DEFAULT '{}',
    started_at       timestamptz NOT NULL,
    answered_at      timestamptz,
    ended_at         timestamptz,
    end_reason       text,
    ended_by         text,
    last_update      timestamptz NOT NULL
);
CREATE INDEX call_sessions_open_idx ON call_sessions (started_at) WHERE ended_at IS NULL;

CREATE TABLE call_media_tracks (
    call_id    text NOT NULL REFERENCES call_sessions (call_id) ON DELETE CASCADE,
    device_id  text NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('audio', 'video')),
    direction  text NOT NULL CHECK (direction IN ('send', 'receive')),
    codec      text,
    bitrate    integer,
    params     jsonb NOT NULL DEFAULT '{}',
    stats      jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (call_id, device_id, kind, direction)
);

ALTER TABLE session ADD COLUMN refreshed_at timestamptz, ADD COLUMN ended_at timestamptz;
CREATE INDEX device_key_event_device_idx ON device_key_event (device_id, recorded_at DESC);
CREATE INDEX idempotency_age_idx ON idempotency (created_at);

CREATE VIEW users AS SELECT * FROM app_user;
CREATE VIEW devices AS
    SELECT opaque_id AS device_id, user_id, pubkey AS public_key, status, created_at FROM user_device;
CREATE VIEW sessions AS
    SELECT opaque_id AS session_id, user_id, device_id, tls_fingerprint, created_at, ttl_seconds FROM session;
CREATE VIEW pairing_tokens AS SELECT * FROM device_pairing;
CREATE VIEW device_rotations AS SELECT * FROM device_rotation_audit;
