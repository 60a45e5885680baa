-- JSON that belongs to a user, such as the list of friends.

CREATE TABLE IF NOT EXISTS user_blob (
    user_id    text NOT NULL REFERENCES app_user (user_id) ON DELETE CASCADE,
    key        text NOT NULL,
    payload    text NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, key)
);
