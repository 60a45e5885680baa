"""Bearer sessions: who is asking."""

from collections.abc import Awaitable
from typing import Any, TypeVar

import attrs
from litestar import Request

from commucat_server.api.context import ApiContext
from commucat_server.api.gate import wait_of_caller
from commucat_server.api.problems import ProblemError, too_many_requests
from commucat_server.identity.tokens import token_hash
from commucat_storage import Device, DeviceStatus, SessionRow, User

_Read = TypeVar("_Read")


@attrs.frozen
class Caller:
    """The authenticated device behind a request."""

    device: Device
    user: User
    token_hash: str = attrs.field(repr=False)
    _context: ApiContext = attrs.field(repr=False)

    async def gave(self, reading: Awaitable[_Read]) -> _Read:
        """What is read of the request's body, if the caller still is who it was when it is there.

        A client decides how long its body takes, and may be revoked meanwhile: every body of an authenticated
        request is read by this.

        Raises:
            ProblemError: 401 or 403, saying why; and what ``reading`` raises.
        """
        read = await reading
        await _session_of(self.token_hash, self._context, int(self._context.clock()))
        return read


async def authenticate(request: Request[Any, Any, Any], context: ApiContext) -> Caller:
    """The caller of a request with ``Authorization: Bearer TOKEN`` (or the bare token).

    A session past half of its life is renewed by being used.

    Raises:
        ProblemError: 401 or 403, saying why; 429 if its device or its user asks too often.
    """
    given = request.headers.getall("authorization", [])
    if not given:
        raise ProblemError(401, "missing Authorization header")
    if len(given) > 1:
        raise ProblemError(401, "more than one Authorization header")
    [header] = given
    scheme, _, rest = header.partition(" ")
    token = (rest if scheme.lower() == "bearer" else header).strip()
    if not token:
        raise ProblemError(401, "empty token provided")
    now = int(context.clock())
    session, device = await _session_of(token_hash(token), context, now)
    user = await context.storage.load_user(device.user_id)
    if user is None:
        raise ProblemError(401, "user not found")
    if context.limits is not None:
        wait = await wait_of_caller(context.limits.http, device.device_id, user.user_id)
        if wait > 0.0:
            context.counters.rate_limited_http += 1
            raise too_many_requests(wait)
    if session.expires_at - now < session.ttl_seconds // 2:
        await context.storage.refresh_session(session.token_hash, now)
    return Caller(device, user, session.token_hash, context)


async def _session_of(hashed: str, context: ApiContext, now: int) -> tuple[SessionRow, Device]:
    session = await context.storage.load_session(hashed)
    if session is None:
        raise ProblemError(401, "session not found or expired")
    if session.expires_at <= now:
        raise ProblemError(401, "session expired, please reconnect")
    device = await context.storage.load_device(session.device_id)
    if device is None:
        raise ProblemError(401, "device not found")
    if device.status is not DeviceStatus.ACTIVE:
        raise ProblemError(403, "access denied")
    return session, device
