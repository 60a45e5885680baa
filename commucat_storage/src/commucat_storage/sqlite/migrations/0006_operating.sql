-- What operators did with commands beside a running server: its ledger is told of it by the server, which
-- alone writes that file. A row is stored in the transaction of what it tells of.
CREATE TABLE operator_record (
    record_id   TEXT NOT NULL PRIMARY KEY CHECK (record_id <> ''),
    digest      BLOB NOT NULL CHECK (length(digest) = 32),
    metadata    TEXT NOT NULL CHECK (json_valid(metadata)),
    recorded_at INTEGER NOT NULL,
    -- When it was written to the ledger. It stays for a while: every node looks here for what has changed.
    taken_at    INTEGER
) STRICT, WITHOUT ROWID;
