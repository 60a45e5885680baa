"""What a client must know of the server before it connects."""

from typing import Any

from litestar import Response, get

from commucat_proto import SUPPORTED_VERSIONS
from commucat_server.api.answers import Handlers, json_answer
from commucat_server.api.context import ApiContext
from commucat_server.connect.handshake import keepalive_interval


def handlers(context: ApiContext) -> Handlers:
    """``/api/server-info``."""

    @get(["/api/server-info", "/api/server/info"], sync_to_thread=False)
    def server_info() -> Response[dict[str, Any]]:
        policy = context.policy
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
                },
            }
        )

    return [server_info]
