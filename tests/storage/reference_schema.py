"""The database of another server of this protocol, as it stood in October 2025, with some rows."""

import json
import re

from commucat_proto.frames import FrameType, encode_frame
from databases.postgres_cluster import run_sql
from storage.storage_builders import key_of

SCHEMA = """
CREATE TABLE app_user (user_id text PRIMARY KEY, handle text NOT NULL UNIQUE, display_name text,
    avatar_url text, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL);
CREATE TABLE user_device (opaque_id text PRIMARY KEY,
    user_id text NOT NULL REFERENCES app_user ON DELETE CASCADE, pubkey bytea NOT NULL, status text NOT NULL,
    created_at timestamptz NOT NULL);
CREATE INDEX ON user_device (user_id);
CREATE TABLE session (opaque_id text PRIMARY KEY, user_id text NOT NULL REFERENCES app_user ON DELETE CASCADE,
    device_id text NOT NULL REFERENCES user_device ON DELETE CASCADE, tls_fingerprint text NOT NULL,
    created_at timestamptz NOT NULL, ttl_seconds bigint NOT NULL);
CREATE TABLE device_key_event (event_id text PRIMARY KEY,
    device_id text NOT NULL REFERENCES user_device ON DELETE CASCADE, public_key bytea NOT NULL,
    recorded_at timestamptz NOT NULL);
CREATE TABLE chat_group (group_id text PRIMARY KEY,
    owner_device text NOT NULL REFERENCES user_device ON DELETE CASCADE, created_at timestamptz NOT NULL);
CREATE TABLE group_member (group_id text REFERENCES chat_group ON DELETE CASCADE,
    device_id text REFERENCES user_device ON DELETE CASCADE, role text NOT NULL,
    joined_at timestamptz NOT NULL, PRIMARY KEY (group_id, device_id));
CREATE TABLE federation_peer (domain text PRIMARY KEY, endpoint text NOT NULL, public_key bytea NOT NULL,
    status text NOT NULL, updated_at timestamptz NOT NULL);
CREATE TABLE idempotency (key text, scope text, created_at timestamptz NOT NULL, PRIMARY KEY (key, scope));
CREATE TABLE relay_queue (envelope_id text PRIMARY KEY, channel_id text NOT NULL, payload bytea NOT NULL,
    deliver_after timestamptz NOT NULL, expires_at timestamptz NOT NULL);
CREATE INDEX ON relay_queue (channel_id, deliver_after);
CREATE TABLE inbox_offset (entity_id text, channel_id text, last_envelope_id text,
    updated_at timestamptz NOT NULL, PRIMARY KEY (entity_id, channel_id));
CREATE TABLE device_pairing (pair_code text PRIMARY KEY,
    user_id text NOT NULL REFERENCES app_user ON DELETE CASCADE,
    issuer_device_id text NOT NULL REFERENCES user_device ON DELETE CASCADE, issued_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL, redeemed_at timestamptz,
    redeemed_device_id text REFERENCES user_device ON DELETE SET NULL, public_key bytea,
    attempts int NOT NULL DEFAULT 0);
CREATE TABLE user_blob (user_id text REFERENCES app_user ON DELETE CASCADE, key text, payload text NOT NULL,
    updated_at timestamptz NOT NULL, PRIMARY KEY (user_id, key));
CREATE TABLE server_secret (name text, version bigint, secret bytea NOT NULL, public bytea,
    metadata jsonb NOT NULL DEFAULT '{}', created_at timestamptz NOT NULL DEFAULT now(),
    valid_after timestamptz NOT NULL, rotates_at timestamptz NOT NULL, expires_at timestamptz NOT NULL,
    PRIMARY KEY (name, version));
CREATE TABLE device_rotation_audit (rotation_id text PRIMARY KEY,
    device_id text NOT NULL REFERENCES user_device ON DELETE CASCADE, old_public_key bytea NOT NULL,
    new_public_key bytea NOT NULL, signature bytea NOT NULL, nonce bytea,
    proof_expires_at timestamptz NOT NULL, applied_at timestamptz NOT NULL,
    UNIQUE (device_id, new_public_key));
CREATE TABLE federation_outbox (outbox_id text PRIMARY KEY, destination_domain text NOT NULL,
    endpoint text NOT NULL, payload jsonb NOT NULL, public_key bytea NOT NULL,
    attempts int NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL, last_error text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE friend_requests (id text PRIMARY KEY, from_user_id text NOT NULL, to_user_id text NOT NULL,
    status text NOT NULL DEFAULT 'pending', message text, created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL, UNIQUE (from_user_id, to_user_id));
ALTER TABLE app_user ADD COLUMN domain text NOT NULL DEFAULT 'local';
CREATE UNIQUE INDEX app_user_handle_domain ON app_user (handle, domain);
CREATE TABLE remote_user_cache (user_id text PRIMARY KEY, domain text NOT NULL, handle text NOT NULL,
    display_name text, avatar_url text, profile_data jsonb NOT NULL, cached_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL, last_fetched_at timestamptz NOT NULL);
CREATE TABLE federation_peer_status (domain text PRIMARY KEY, endpoint text NOT NULL,
    public_key bytea NOT NULL, last_seen_at timestamptz, last_error text, error_count int NOT NULL DEFAULT 0,
    status text NOT NULL DEFAULT 'unknown', created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL);
CREATE TABLE federated_friend_requests (request_id text PRIMARY KEY, from_user_id text NOT NULL,
    to_user_id text NOT NULL, from_domain text NOT NULL, to_domain text NOT NULL, message text,
    status text NOT NULL DEFAULT 'pending', federation_event_id text, created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL);
CREATE TABLE device_pq_keys (device_id text PRIMARY KEY REFERENCES user_device ON DELETE CASCADE,
    kem_public bytea NOT NULL, signature_public bytea NOT NULL, updated_at timestamptz NOT NULL);
"""
TABLES = tuple(re.findall(r"CREATE TABLE (\w+)", SCHEMA))

CREATED = "'2025-10-05 10:00:00+00'"
LATE = "'2099-01-01 00:00:00+00'"


def _events() -> list[str]:
    """What waits for other servers: two messages, one that is for somebody else, and a friend request."""

    def event(target: str, text: bytes) -> str:
        frame = encode_frame(FrameType.MSG, 9, 5, text).hex()
        payload = {"channel": 9, "sequence": 5, "payload": frame, "sender": "ann", "target": target}
        return json.dumps({"event": {"event_id": "e", "payload": payload}, "signature": [], "digest": []})

    payloads = [
        event("kim@B.example", b"one"),
        event("kim@b.example", b"two"),
        event("kim@elsewhere", b"three"),
        json.dumps({"type": "friend_request", "request_id": "out"}),
        json.dumps({"event": {"payload": {"target": "kim@b.example", "payload": "01"}}}),
    ]
    return [
        f"('o{index}', 'B.example', 'https://b', '{payload}', '\\x00', {CREATED}, "
        f"{CREATED}::timestamptz + interval '{index} seconds')"
        for index, payload in enumerate(payloads)
    ]


def fill(dsn: str) -> None:
    """Two users with a device each, a group that both "own", a secret, messages for "ann"."""
    envelopes = [("e1", "inbox:ann", 7, b"first"), ("e2", "inbox:ann", 2**32 - 1, b"x" * 300)]
    rows = [
        f"('{name}', '{inbox}', '\\x{encode_frame(FrameType.MSG, channel, 1, text).hex()}', "
        f"{CREATED}::timestamptz + interval '{index} seconds', {LATE})"
        for index, (name, inbox, channel, text) in enumerate(envelopes)
    ]
    rows.append(f"('e3', 'inbox:ann', '\\xff', {CREATED}, {LATE})")  # no frame
    rows.append(f"('e4', 'inbox:nobody', '\\x00', {CREATED}, {LATE})")
    to_bo = "'tom@b.example', 'bo@cats.example', 'b.example', 'cats.example', NULL"
    run_sql(
        dsn,
        SCHEMA
        + f"""
        INSERT INTO app_user (user_id, handle, display_name, created_at, updated_at) VALUES
            ('user-ann', 'ann', 'Ann', {CREATED}, {CREATED}), ('user-bo', 'bo', NULL, {CREATED}, {CREATED});
        INSERT INTO user_device VALUES
            ('ann', 'user-ann', '\\x{key_of("ann").hex()}', 'active', {CREATED}),
            ('bo', 'user-bo', '\\x{key_of("bo").hex()}', 'revoked', {CREATED});
        INSERT INTO session VALUES ('token in clear', 'user-ann', 'ann', 'fp', {CREATED}, 9999999999);
        INSERT INTO chat_group VALUES ('g', 'ann', {CREATED});
        INSERT INTO group_member VALUES ('g', 'ann', 'owner', {CREATED}), ('g', 'bo', 'owner', {CREATED});
        INSERT INTO server_secret (name, version, secret, public, valid_after, rotates_at, expires_at) VALUES
            ('noise-static', 3, 'private', 'public', {CREATED}, {LATE}, {LATE});
        INSERT INTO inbox_offset VALUES ('ann', 'inbox:ann', 'e2', {CREATED});
        INSERT INTO user_blob VALUES
            ('user-ann', 'friends', '[{{"user_id": "user-bo", "alias": "B"}}, {{"id": "old", "x": 1}}]',
                {CREATED}),
            ('user-bo', 'friends', '[{{"alias": "nobody"}}]', {CREATED}), ('user-bo', 'other', '', {CREATED});
        INSERT INTO relay_queue VALUES {", ".join(rows)};
        INSERT INTO federation_outbox (outbox_id, destination_domain, endpoint, payload, public_key,
            next_attempt_at, created_at) VALUES {", ".join(_events())};
        INSERT INTO federation_peer VALUES
            ('B.example', 'https://b', '\\x{bytes(32).hex()}', 'active', {CREATED}),
            ('b.Example', 'https://old', '\\x{bytes(32).hex()}', 'blocked', '2025-01-01 00:00:00+00'),
            ('odd.example', 'https://odd', '\\x{bytes(32).hex()}', 'trusted', {CREATED}),
            ('short.example', 'https://short', '\\x00', 'active', {CREATED});
        INSERT INTO idempotency VALUES ('federation:b.example:1', 'federation-inbox', {CREATED});
        INSERT INTO federated_friend_requests VALUES
            ('out', 'user-ann', 'kim@B.example', 'cats.example', 'B.example', 'hi', 'pending', NULL,
                {CREATED}, {CREATED}),
            ('in', {to_bo}, 'cancelled', 'in', {CREATED}, {CREATED}),
            ('older', {to_bo}, 'pending', 'older', {CREATED}, '2025-01-01 00:00:00+00'),
            ('lost', {to_bo.replace("bo@", "gone@")}, 'pending', 'lost', {CREATED}, {CREATED});
        """,
    )
