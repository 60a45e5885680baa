-- Calls, as far as a restart, and an operator, has to know of them. Rows go some time after their call has ended.
CREATE TABLE call_sessions (
    call_id          TEXT NOT NULL PRIMARY KEY CHECK (call_id <> ''),
    channel_id       INTEGER NOT NULL CHECK (channel_id BETWEEN 0 AND 4294967295),
    group_id         TEXT,
    initiator_device TEXT NOT NULL,
    mode             TEXT NOT NULL CHECK (mode IN ('full_duplex', 'half_duplex')),
    video            INTEGER NOT NULL CHECK (video IN (0, 1)),
    -- JSON lists of devices: who began it and those at which it rang; of these, who came in; who left or declined.
    participants     TEXT NOT NULL CHECK (json_valid(participants)),
    accepted         TEXT NOT NULL CHECK (json_valid(accepted)),
    gone             TEXT NOT NULL CHECK (json_valid(gone)),
    -- The process that ends the call when its time is over.
    node             TEXT NOT NULL,
    started_at       INTEGER NOT NULL,
    answered_at      INTEGER,
    ended_at         INTEGER,
    end_reason       TEXT,
    ended_by         TEXT,
    last_update      INTEGER NOT NULL
) STRICT;
CREATE INDEX call_sessions_open ON call_sessions (started_at) WHERE ended_at IS NULL;
CREATE INDEX call_sessions_ended ON call_sessions (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE call_media_tracks (
    call_id    TEXT NOT NULL REFERENCES call_sessions (call_id) ON DELETE CASCADE,
    device_id  TEXT NOT NULL,
    kind       TEXT NOT NULL CHECK (kind IN ('audio', 'video')),
    direction  TEXT NOT NULL CHECK (direction IN ('send', 'receive')),
    codec      TEXT,
    -- Bits per second.
    bitrate    INTEGER,
    params     TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(params)),
    stats      TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(stats)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (call_id, device_id, kind, direction)
) STRICT, WITHOUT ROWID;
