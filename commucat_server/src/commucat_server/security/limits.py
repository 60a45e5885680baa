"""All rate limits of a server, made from the configuration and changed by a new one."""

import time
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from commucat_server.config import ServerConfig
from commucat_server.security.messages import MessageLimits
from commucat_server.security.rate import RateLimit, SharedRateLimit
from commucat_storage.buckets import Buckets

_HOUR: Final = 3600.0

Numbers = tuple[int, float, float]
"""Tokens, the seconds in which so many come back, and the seconds of the penalty."""


@attrs.frozen(kw_only=True)
class RateLimits:
    """One limit for each scope."""

    http: SharedRateLimit
    """Requests other than ``/connect``, by address; beside it by device and by user."""
    connect: SharedRateLimit
    """Handshakes that do not succeed, by address."""
    pairing_claim: SharedRateLimit
    """By address, beside ``http``."""
    pairing_failures: SharedRateLimit
    """Claims that fail, of all addresses together."""
    new_device: SharedRateLimit
    """Devices never seen before, by address."""
    messages: MessageLimits

    @classmethod
    def build(
        cls,
        config: ServerConfig,
        buckets: Buckets | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> "RateLimits":
        """The limits of a configuration; shared with other processes through ``buckets`` if there are any."""
        limits = {
            scope: SharedRateLimit(
                scope, RateLimit(burst=burst, period=period, penalty=penalty, clock=clock), buckets
            )
            for scope, (burst, period, penalty) in _numbers(config).items()
        }
        built = cls(messages=MessageLimits(clock, buckets), **limits)
        built._configure_messages(config)
        return built

    def configure(self, config: ServerConfig) -> None:
        """Take the numbers of a new configuration; what was counted stays counted."""
        for scope, (burst, period, penalty) in _numbers(config).items():
            limit: SharedRateLimit = getattr(self, scope)
            limit.configure(burst=burst, period=period, penalty=penalty)
        self._configure_messages(config)

    def _configure_messages(self, config: ServerConfig) -> None:
        rates = config.security_rate_limit
        self.messages.configure(
            device=_window(rates.message_burst, rates.message_window_ms),
            user=_window(rates.user_message_burst, rates.user_message_window_ms),
        )


def _numbers(config: ServerConfig) -> Mapping[str, Numbers]:
    rates, limits = config.security_rate_limit, config.limits
    connects = limits.connects_per_second if rates.connect_burst is None else rates.connect_burst
    return {
        "http": (rates.http_burst, rates.http_window_ms / 1000, rates.http_penalty_ms / 1000),
        "connect": (connects, rates.connect_window_ms / 1000, rates.connect_penalty_ms / 1000),
        "pairing_claim": (
            rates.pairing_burst,
            rates.pairing_window_ms / 1000,
            rates.pairing_penalty_ms / 1000,
        ),
        "pairing_failures": (config.pairing.failures_per_hour, _HOUR, 0.0),
        "new_device": (limits.new_devices_per_hour, _HOUR, 0.0),
    }


def _window(burst: int | None, milliseconds: int) -> tuple[int, float] | None:
    return None if burst is None else (burst, milliseconds / 1000)
