-- What a restart has to know of calls, beside what the tables had from the beginning.

ALTER TABLE call_sessions
    ADD COLUMN video boolean NOT NULL DEFAULT false,
    -- Devices that have left, or declined.
    ADD COLUMN gone text[] NOT NULL DEFAULT '{}',
    -- The node that ends the call when its time is over.
    ADD COLUMN node text NOT NULL DEFAULT '';
CREATE INDEX call_sessions_ended_idx ON call_sessions (ended_at) WHERE ended_at IS NOT NULL;
-- A bitrate is an unsigned number of 32 bits.
ALTER TABLE call_media_tracks ALTER COLUMN bitrate TYPE bigint;
