-- Devices that wait for approval, and names of devices.

-- pair_code is a hash from here on. Codes that another server stored live for an hour at most.
DELETE FROM device_pairing;
CREATE INDEX device_pairing_issuer_idx ON device_pairing (issuer_device_id);

-- No rows of user_device: what waits here can neither connect nor be written to.
CREATE TABLE pending_device (
    device_id        text PRIMARY KEY CHECK (device_id <> ''),
    user_id          text NOT NULL REFERENCES app_user (user_id) ON DELETE CASCADE,
    public_key       bytea NOT NULL CHECK (octet_length(public_key) = 32),
    name             text,
    issuer_device_id text NOT NULL,
    requested_at     timestamptz NOT NULL,
    expires_at       timestamptz NOT NULL
);
CREATE INDEX pending_device_user_idx ON pending_device (user_id);
CREATE INDEX pending_device_end_idx ON pending_device (expires_at);

CREATE TABLE device_name (
    device_id text PRIMARY KEY REFERENCES user_device (opaque_id) ON DELETE CASCADE,
    name      text NOT NULL
);

-- A key that changes must not become that of another device. Databases of other servers may have such.
CREATE INDEX user_device_pubkey_idx ON user_device (pubkey);
