-- Pairing codes, devices that wait for approval, names of devices, and changes of keys.

-- What the reference schema has under this name, with its times in microseconds; pair_code is a hash here.
CREATE TABLE device_pairing (
    pair_code          TEXT NOT NULL PRIMARY KEY,
    user_id            TEXT NOT NULL REFERENCES app_user (user_id) ON DELETE CASCADE,
    issuer_device_id   TEXT NOT NULL REFERENCES user_device (device_id) ON DELETE CASCADE,
    issued_at          INTEGER NOT NULL,
    expires_at         INTEGER NOT NULL,
    redeemed_at        INTEGER,
    redeemed_device_id TEXT REFERENCES user_device (device_id) ON DELETE SET NULL,
    public_key         BLOB,
    attempts           INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE INDEX device_pairing_of_issuer ON device_pairing (issuer_device_id);
CREATE INDEX device_pairing_of_user ON device_pairing (user_id);
CREATE INDEX device_pairing_of_redeemed ON device_pairing (redeemed_device_id);
CREATE INDEX device_pairing_end ON device_pairing (expires_at);

-- Likewise, times in microseconds.
CREATE TABLE device_rotation_audit (
    rotation_id      TEXT NOT NULL PRIMARY KEY,
    device_id        TEXT NOT NULL REFERENCES user_device (device_id) ON DELETE CASCADE,
    old_public_key   BLOB NOT NULL,
    new_public_key   BLOB NOT NULL,
    signature        BLOB NOT NULL,
    nonce            BLOB,
    proof_expires_at INTEGER NOT NULL,
    applied_at       INTEGER NOT NULL,
    UNIQUE (device_id, new_public_key)
) STRICT, WITHOUT ROWID;

-- No rows of user_device: what waits here can neither connect nor be written to.
CREATE TABLE pending_device (
    device_id        TEXT NOT NULL PRIMARY KEY CHECK (device_id <> ''),
    user_id          TEXT NOT NULL REFERENCES app_user (user_id) ON DELETE CASCADE,
    public_key       BLOB NOT NULL CHECK (length(public_key) = 32),
    name             TEXT,
    issuer_device_id TEXT NOT NULL,
    requested_at     INTEGER NOT NULL,
    expires_at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX pending_device_of_user ON pending_device (user_id);
CREATE INDEX pending_device_end ON pending_device (expires_at);

CREATE TABLE device_name (
    device_id TEXT NOT NULL PRIMARY KEY REFERENCES user_device (device_id) ON DELETE CASCADE,
    name      TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- A key that changes must not become that of another device.
CREATE INDEX user_device_of_key ON user_device (public_key);
