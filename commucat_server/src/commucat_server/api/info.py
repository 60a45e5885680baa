"""What a client must know of the server before it connects."""

from typing import Any

from litestar import Response, get

from commucat_proto import SUPPORTED_VERSIONS
from commucat_server.api.answers import Handlers, json_answer
from commucat_server.api.context import ApiContext
from commucat_server.api.openapi import documented
from commucat_server.api.schemas import (
    KEY,
    array,
    boolean,
    constant,
    hexadecimal,
    integer,
    record,
    text,
    time,
)
from commucat_server.connect.handshake import keepalive_interval

NOISE_KEY = record(
    {
        "version": integer(),
        "public": KEY,
        "valid_after": time(),
        "rotates_at": time(),
        "expires_at": time(),
    }
)
SERVER_INFO = record(
    {
        "domain": text(),
        "noise_public": hexadecimal(32, "The newest Noise static key, X25519."),
        "noise_keys": array(NOISE_KEY, "All that the server answers to, the newest first."),
        "device_ca_public": hexadecimal(32, "Ed25519; signs device certificates."),
        "supported_patterns": array(constant("XK", "IK")),
        "supported_versions": array(integer()),
        "session": record({"ttl_seconds": integer(), "keepalive_interval": integer()}),
        "presence": record({"ttl_seconds": integer()}),
        "pairing": record(
            {
                "auto_approve": boolean("Whether a Hello may create a user."),
                "max_auto_devices": integer(),
                "pairing_ttl": integer("Seconds that a code is good for at most."),
                "require_approval": boolean("Whether a device that claimed a code waits for approval."),
            }
        ),
        "device_rotation": record(
            {"enabled": boolean(), "min_interval_seconds": integer(), "proof_ttl_seconds": integer()}
        ),
    }
)


def handlers(context: ApiContext) -> Handlers:
    """``/api/server-info``."""

    @get(
        ["/api/server-info", "/api/server/info"],
        sync_to_thread=False,
        opt=documented("What a client must know before it connects", tag="server", ok={200: SERVER_INFO}),
    )
    def server_info() -> Response[dict[str, Any]]:
        policy, pairing, rotation = context.policy, context.pairing.policy, context.rotations.policy
        keys = context.noise_keys.entries()
        return json_answer(
            {
                "domain": policy.domain,
                "noise_public": keys[0]["public"],
                "noise_keys": keys,
                "device_ca_public": context.issuer.public_key.hex(),
                "supported_patterns": list(context.patterns),
                "supported_versions": list(SUPPORTED_VERSIONS),
                "session": {
                    "ttl_seconds": context.keepalive,
                    "keepalive_interval": keepalive_interval(context.keepalive),
                },
                "presence": {"ttl_seconds": context.presence_ttl},
                "pairing": {
                    "auto_approve": policy.auto_approve_devices,
                    "max_auto_devices": policy.max_auto_devices_per_user,
                    "pairing_ttl": pairing.ttl,
                    "require_approval": pairing.require_approval,
                },
                "device_rotation": {
                    "enabled": rotation.enabled,
                    "min_interval_seconds": rotation.min_interval,
                    "proof_ttl_seconds": rotation.proof_ttl,
                },
            }
        )

    return [server_info]
