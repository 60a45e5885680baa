"""Shared by the provisioning tests: a store of secrets, and a stand-in for a kill."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from commucat_storage.errors import AlreadyExistsError
from commucat_storage.operating import OperatorRecord, SecretRotation
from commucat_storage.records import Secret


class SecretTable:
    """The secrets part of a store, in memory."""

    def __init__(self, *rows: Secret) -> None:
        self.rows = list(rows)
        self.records: list[OperatorRecord] = []

    async def secret_versions(self, name: str | None = None) -> tuple[Secret, ...]:
        rows = [row for row in self.rows if name in (None, row.name)]
        return tuple(sorted(rows, key=lambda row: (row.name, -row.version)))

    async def rotate_secret(self, rotation: SecretRotation) -> None:
        secret = rotation.secret
        if any((row.name, row.version) == (secret.name, secret.version) for row in self.rows):
            raise AlreadyExistsError("this version exists")
        self.rows = [
            attrs.evolve(row, expires_at=rotation.until.get(row.version, row.expires_at))
            if row.name == secret.name
            else row
            for row in self.rows
        ]
        self.rows.append(secret)
        if rotation.record is not None:
            self.records.append(rotation.record)


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
