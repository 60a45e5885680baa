-- What operators did with commands beside running servers: the ledger is told of it by a server. A row is
-- stored in the transaction of what it tells of.
CREATE TABLE operator_record (
    record_id   text NOT NULL PRIMARY KEY CHECK (record_id <> ''),
    digest      bytea NOT NULL CHECK (octet_length(digest) = 32),
    metadata    json NOT NULL,
    recorded_at timestamptz NOT NULL,
    -- When it was written to a ledger. It stays for a while: every node looks here for what has changed.
    taken_at    timestamptz
);
