"""Problem documents (RFC 9457): the one form in which the REST interface says no."""

import math
from typing import Any

import orjson
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, NotAuthorizedException

from commucat_storage import StorageError

log = structlog.get_logger("commucat.api")

TITLES = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    416: "RangeNotSatisfiable",
    429: "Too Many Requests",
    500: "InternalError",
    503: "ServiceUnavailable",
}
_DEFAULT_DETAILS = {
    401: "authorization required",
    403: "access denied",
    404: "resource not found",
    500: "internal server error",
}


class ProblemError(Exception):
    """Answer the request with this problem."""

    def __init__(
        self, status: int, detail: str | None = None, *, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}


def retry_after(wait: float) -> dict[str, str]:
    """The header that tells whole seconds, at least one."""
    return {"retry-after": str(max(1, math.ceil(wait)))}


def too_many_requests(wait: float) -> ProblemError:
    """429; ``wait`` are the seconds until another attempt may succeed."""
    return ProblemError(429, headers=retry_after(wait))


def problem(
    status: int, *, title: str | None = None, detail: str | None = None, headers: dict[str, str] | None = None
) -> Response[bytes]:
    """A problem document; ``detail`` is left out when there is nothing to add."""
    document: dict[str, Any] = {"type": "about:blank", "title": title or TITLES.get(status, "Error")}
    document["status"] = status
    if detail is not None:
        document["detail"] = detail
    all_headers = {"cache-control": "no-store", **(headers or {})}
    if status == 401:
        all_headers["www-authenticate"] = "Bearer"
    return Response(
        orjson.dumps(document, option=orjson.OPT_SORT_KEYS),
        status_code=status,
        media_type="application/problem+json",
        headers=all_headers,
    )


def on_problem(_: Request[Any, Any, Any], exc: ProblemError) -> Response[bytes]:
    detail = exc.detail or _DEFAULT_DETAILS.get(exc.status)
    return problem(exc.status, detail=detail, headers=exc.headers)


def on_storage_error(_: Request[Any, Any, Any], exc: StorageError) -> Response[bytes]:
    return problem(503, detail="the store is not available; try again later")


def on_unexpected(request: Request[Any, Any, Any], exc: Exception) -> Response[bytes]:
    """A mistake of ours: told in the log, and to nobody else."""
    log.error("request failed", method=request.method, path=request.url.path, exc_info=exc)
    return problem(500, detail=_DEFAULT_DETAILS[500])


def on_http_exception(_: Request[Any, Any, Any], exc: HTTPException) -> Response[bytes]:
    """What the router itself refuses: an unknown path, or a known one with another method."""
    if exc.status_code in (404, 405):
        return problem(404, title="Not Found")
    if isinstance(exc, NotAuthorizedException):
        return problem(401, detail=_DEFAULT_DETAILS[401])
    if exc.status_code < 500:
        return problem(exc.status_code, title=TITLES.get(exc.status_code, "BadRequest"), detail=exc.detail)
    return problem(500, detail=_DEFAULT_DETAILS[500])
