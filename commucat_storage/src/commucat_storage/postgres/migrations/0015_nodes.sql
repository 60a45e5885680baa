-- Several server processes on one database: who owns a device's live session, who lives, who does which job.

-- Part of the row that every commit for the device locks: whoever commits a message reads the owner, and
-- whoever claims reads the number, in one order. owner_claim only rises; the higher claim wins.
ALTER TABLE inbox_offset
    ADD COLUMN owner_node text,
    ADD COLUMN owner_session text,
    ADD COLUMN owner_claim bigint NOT NULL DEFAULT 0 CHECK (owner_claim >= 0);
-- To find what a dead node has left. Only connects change it, so commits stay cheap updates.
CREATE INDEX inbox_offset_owner ON inbox_offset (owner_node) WHERE owner_node IS NOT NULL;

CREATE TABLE cluster_node (
    node       text PRIMARY KEY CHECK (node ~ '^[0-9a-f]{1,32}$'),
    host       text NOT NULL,
    pid        integer NOT NULL,
    -- The key that signs certificates of devices: nodes with different ones would be different servers.
    identity   bytea NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE cluster_lease (
    name   text PRIMARY KEY,
    holder text,
    until  timestamptz NOT NULL DEFAULT '-infinity'
);
