-- One-time codes with which a device admits another one.

CREATE TABLE IF NOT EXISTS device_pairing (
    pair_code          text NOT NULL PRIMARY KEY,
    user_id            text NOT NULL REFERENCES app_user (user_id) ON DELETE CASCADE,
    issuer_device_id   text NOT NULL REFERENCES user_device (opaque_id) ON DELETE CASCADE,
    issued_at          timestamptz NOT NULL,
    expires_at         timestamptz NOT NULL,
    redeemed_at        timestamptz,
    redeemed_device_id text REFERENCES user_device (opaque_id) ON DELETE SET NULL,
    public_key         bytea,
    attempts           integer NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS device_pairing_user_idx ON device_pairing (user_id);
CREATE INDEX IF NOT EXISTS device_pairing_expires_idx ON device_pairing (expires_at);
