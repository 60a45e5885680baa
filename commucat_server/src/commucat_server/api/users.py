"""Users as paths name them, by id or handle, and as answers show them."""

from typing import Any
from urllib.parse import unquote_to_bytes

from commucat_server.api.answers import ApiRequest
from commucat_server.api.context import ApiContext
from commucat_server.api.problems import ProblemError
from commucat_storage import User

_HEX = frozenset("0123456789abcdefABCDEF")


def user_document(user: User) -> dict[str, Any]:
    """A user as others see it."""
    return {
        "user_id": user.user_id,
        "handle": user.handle,
        "display_name": user.display_name,
        "avatar_url": user.avatar_url,
    }


def path_segment(request: ApiRequest, index: int, *, missing: str) -> str:
    """A segment of the path as the client wrote it, decoded and trimmed; ``index`` counts from 0.

    The application's own decoding lets broken escapes pass, and cannot tell ``%2F`` from a slash.

    Raises:
        ProblemError: 400, saying why.
    """
    segments = request.scope["raw_path"].decode("latin-1").split("?")[0].split("/")[1:]
    text = segments[index] if index < len(segments) else ""
    for escape in text.split("%")[1:]:
        if len(escape) < 2 or not _HEX.issuperset(escape[:2]):
            raise ProblemError(400, "invalid percent-encoding in friend user id")
    try:
        decoded = unquote_to_bytes(text.encode("latin-1")).decode()
    except UnicodeDecodeError as exc:
        raise ProblemError(400, "friend user id must be valid UTF-8") from exc
    if not decoded.strip():
        raise ProblemError(400, missing)
    return decoded.strip()


def split_domain(context: ApiContext, name: str) -> tuple[str, str | None]:
    """The name without a domain, and the domain if it is another server's."""
    local, at, domain = name.rpartition("@")
    if not at:
        return name, None
    return local, None if domain.lower() == context.policy.domain.lower() else domain


async def find_user(context: ApiContext, name: str) -> User | None:
    """The user of this server with this id, or else with this handle."""
    if "\0" in name:
        return None  # no store has such a name, and not every store can be asked for it
    found = await context.storage.load_user(name)
    return found or await context.storage.load_user_by_handle(name, context.policy.domain)
