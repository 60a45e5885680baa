-- Post-quantum public keys of devices.

CREATE TABLE IF NOT EXISTS device_pq_keys (
    device_id        text NOT NULL PRIMARY KEY REFERENCES user_device (opaque_id) ON DELETE CASCADE,
    kem_public       bytea NOT NULL,
    signature_public bytea NOT NULL,
    updated_at       timestamptz NOT NULL
);
