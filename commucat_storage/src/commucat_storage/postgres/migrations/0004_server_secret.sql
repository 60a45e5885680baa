-- Versions of the server's secrets.

CREATE TABLE IF NOT EXISTS server_secret (
    name        text NOT NULL,
    version     bigint NOT NULL,
    secret      bytea NOT NULL,
    public      bytea,
    metadata    jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now(),
    valid_after timestamptz NOT NULL,
    rotates_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (name, version)
);
CREATE INDEX IF NOT EXISTS server_secret_version_idx ON server_secret (name, version DESC);
CREATE INDEX IF NOT EXISTS server_secret_validity_idx ON server_secret (name, valid_after, expires_at);
