-- Events on their way to other servers.

CREATE TABLE IF NOT EXISTS federation_outbox (
    outbox_id          text NOT NULL PRIMARY KEY,
    destination_domain text NOT NULL,
    endpoint           text NOT NULL,
    payload            jsonb NOT NULL,
    public_key         bytea NOT NULL,
    attempts           integer NOT NULL DEFAULT 0,
    next_attempt_at    timestamptz NOT NULL,
    last_error         text,
    created_at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS federation_outbox_next_idx ON federation_outbox (next_attempt_at);
