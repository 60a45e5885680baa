-- Users belong to a domain; what is known of other domains.

ALTER TABLE app_user ADD COLUMN IF NOT EXISTS domain text NOT NULL DEFAULT 'local';
CREATE INDEX IF NOT EXISTS app_user_domain_idx ON app_user (domain);
CREATE UNIQUE INDEX IF NOT EXISTS app_user_handle_domain_idx ON app_user (handle, domain);

CREATE TABLE IF NOT EXISTS remote_user_cache (
    user_id         text NOT NULL PRIMARY KEY,
    domain          text NOT NULL,
    handle          text NOT NULL,
    display_name    text,
    avatar_url      text,
    profile_data    jsonb NOT NULL,
    cached_at       timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL,
    last_fetched_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS remote_user_cache_domain_idx ON remote_user_cache (domain);
CREATE INDEX IF NOT EXISTS remote_user_cache_expires_idx ON remote_user_cache (expires_at);
CREATE INDEX IF NOT EXISTS remote_user_cache_handle_idx ON remote_user_cache (handle, domain);

CREATE TABLE IF NOT EXISTS federation_peer_status (
    domain       text NOT NULL PRIMARY KEY,
    endpoint     text NOT NULL,
    public_key   bytea NOT NULL,
    last_seen_at timestamptz,
    last_error   text,
    error_count  integer NOT NULL DEFAULT 0,
    status       text NOT NULL DEFAULT 'unknown',
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS federation_peer_status_updated_idx ON federation_peer_status (updated_at);

CREATE TABLE IF NOT EXISTS federated_friend_requests (
    request_id          text NOT NULL PRIMARY KEY,
    from_user_id        text NOT NULL,
    to_user_id          text NOT NULL,
    from_domain         text NOT NULL,
    to_domain           text NOT NULL,
    message             text,
    status              text NOT NULL DEFAULT 'pending',
    federation_event_id text,
    created_at          timestamptz NOT NULL,
    updated_at          timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS federated_friend_requests_from_idx ON federated_friend_requests (from_user_id);
CREATE INDEX IF NOT EXISTS federated_friend_requests_to_idx ON federated_friend_requests (to_user_id);
CREATE INDEX IF NOT EXISTS federated_friend_requests_status_idx ON federated_friend_requests (status);
CREATE INDEX IF NOT EXISTS federated_friend_requests_from_domain_idx
    ON federated_friend_requests (from_domain);
CREATE INDEX IF NOT EXISTS federated_friend_requests_to_domain_idx ON federated_friend_requests (to_domain);
