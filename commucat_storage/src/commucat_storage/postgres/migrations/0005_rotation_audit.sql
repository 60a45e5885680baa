-- Proofs with which devices changed their keys.

CREATE TABLE IF NOT EXISTS device_rotation_audit (
    rotation_id      text NOT NULL PRIMARY KEY,
    device_id        text NOT NULL REFERENCES user_device (opaque_id) ON DELETE CASCADE,
    old_public_key   bytea NOT NULL,
    new_public_key   bytea NOT NULL,
    signature        bytea NOT NULL,
    nonce            bytea,
    proof_expires_at timestamptz NOT NULL,
    applied_at       timestamptz NOT NULL,
    UNIQUE (device_id, new_public_key)
);
CREATE INDEX IF NOT EXISTS device_rotation_audit_device_idx
    ON device_rotation_audit (device_id, applied_at DESC);
