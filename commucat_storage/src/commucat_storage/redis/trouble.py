"""What is wrong with Redis, in words for an operator."""

import ssl
from socket import gaierror

from redis import exceptions as they

from commucat_storage.redis.address import RedisAddress


class TroubleError(Exception):
    """Redis cannot be used now. The text is one line with the place and what the server said; no secrets."""

    def __init__(self, address: RedisAddress, short: str, detail: str = "", *, lasting: bool = False) -> None:
        text = f"{address.place}: {short}" + (f" ({detail})" if detail else "")
        super().__init__(redacted(text, address))
        self.short = f"Redis {short}"
        """The same without place and detail, for strangers."""
        self.lasting = lasting
        """Only a change of the configuration ends it."""


def redacted(text: str, address: RedisAddress) -> str:
    """One line, without the password: servers quote commands that they do not know."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line.replace(address.password, "***") if address.password else line


def needs_new_connection(error: BaseException) -> bool:
    """Whether the server has changed its role, so that a new connection may find a better one."""
    # Errors of scripts begin with the code of the command inside, or hold it, as versions have it.
    return isinstance(error, they.ReadOnlyError | they.MasterDownError) or "-READONLY" in str(error)


def trouble_of(error: BaseException, address: RedisAddress) -> TroubleError:
    """Translate whatever redis, asyncio or the system raise."""
    text = str(error) or type(error).__name__
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            detail = cause.verify_message or text
            return TroubleError(address, "has a certificate that is not trusted", detail, lasting=True)
        if isinstance(cause, ssl.SSLError):
            return TroubleError(address, "does not speak TLS as we do", cause.reason or text, lasting=True)
        if isinstance(cause, gaierror):
            return TroubleError(address, "cannot be found: the host is not known", cause.strerror or text)
    if isinstance(error, TroubleError):
        return error
    # The library wraps some of its own errors in the one that says least.
    wrapped = [cause for cause in _causes(error) if type(cause) is not they.ConnectionError]
    match wrapped[0] if wrapped and isinstance(wrapped[0], they.RedisError) else error:
        case they.AuthenticationError() | they.AuthorizationError():
            return TroubleError(address, "refuses the user or the password", text, lasting=True)
        case they.NoPermissionError():
            return TroubleError(address, "does not let its user do that", text, lasting=True)
        case they.BusyLoadingError():
            return TroubleError(address, "is starting", text)
        case TimeoutError() | they.TimeoutError():
            return TroubleError(address, "does not answer in time")
        case they.OutOfMemoryError():
            return TroubleError(address, "is full", text)
        case they.ReadOnlyError() | they.MasterDownError():
            return TroubleError(address, "takes no writes", text)
        case they.MovedError() | they.ClusterDownError():
            return TroubleError(address, "is a Redis Cluster, which is not supported", text, lasting=True)
        case they.ResponseError():
            return _answered(text, address)
        case they.InvalidResponse():
            return TroubleError(address, "is no Redis: its answer cannot be read", lasting=True)
        case they.ConnectionError() | OSError():
            return TroubleError(address, "cannot be reached", text)
        case _:
            return TroubleError(address, "cannot be used", f"{type(error).__name__}: {text}")


def _answered(text: str, address: RedisAddress) -> TroubleError:
    lower = text.lower()
    if "db index" in lower or "select is not allowed" in lower:
        return TroubleError(address, "has no database of this number", text, lasting=True)
    if "auth" in lower and "unknown command" in lower:
        return TroubleError(address, "refuses the user or the password", text, lasting=True)
    if "-readonly" in lower or lower.startswith("misconf") or "-misconf" in lower:
        return TroubleError(address, "takes no writes", text)
    if "oom command" in lower:
        return TroubleError(address, "is full", text)
    return TroubleError(address, "answers with an error", text)


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found
