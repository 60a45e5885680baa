"""Shared by the provisioning tests: a store of secrets, and a stand-in for a kill."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from commucat_storage.errors import AlreadyExistsError
from commucat_storage.records import Secret


class SecretTable:
    """The secrets part of a store, in memory."""

    def __init__(self, *rows: Secret) -> None:
        self.rows = list(rows)

    async def insert_secret(self, secret: Secret) -> None:
        if any((row.name, row.version) == (secret.name, secret.version) for row in self.rows):
            raise AlreadyExistsError("this version exists")
        self.rows.append(secret)

    async def active_secrets(self, name: str, now: int) -> tuple[Secret, ...]:
        active = [row for row in self.rows if row.name == name and row.valid_after <= now < row.expires_at]
        return tuple(sorted(active, key=lambda row: -row.version))

    async def latest_secret_version(self, name: str) -> int:
        return max((row.version for row in self.rows if row.name == name), default=0)


class KilledError(BaseException):
    """The process ended here: no handler of the code under test may tidy up after it."""


@attrs.define
class KillSwitch:
    """Ends the process at the n-th call of the functions it watches."""

    monkeypatch: pytest.MonkeyPatch
    countdown: int
    fired: bool = False

    def watch(self, target: Any, name: str) -> None:
        self.monkeypatch.setattr(target, name, self._counted(getattr(target, name)))

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.countdown -= 1
            if self.countdown < 0:
                self.fired = True
                raise KilledError
            return real(*args, **kwargs)

        return call
