-- Friend requests between users of this server.

CREATE TABLE IF NOT EXISTS friend_requests (
    id           text NOT NULL PRIMARY KEY,
    from_user_id text NOT NULL,
    to_user_id   text NOT NULL,
    status       text NOT NULL DEFAULT 'pending',
    message      text,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    UNIQUE (from_user_id, to_user_id)
);
CREATE INDEX IF NOT EXISTS friend_requests_from_idx ON friend_requests (from_user_id);
CREATE INDEX IF NOT EXISTS friend_requests_to_idx ON friend_requests (to_user_id);
CREATE INDEX IF NOT EXISTS friend_requests_status_idx ON friend_requests (status);
CREATE INDEX IF NOT EXISTS friend_requests_created_idx ON friend_requests (created_at);
