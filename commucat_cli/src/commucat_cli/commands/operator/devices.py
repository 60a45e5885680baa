"""The devices in a server's store, for its operator; the server need not run, and may."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from commucat_cli.commands.operator.on_store import refuse_older_schema
from commucat_cli.commands.operator.settings import OperatorError, explained, load
from commucat_crypto import DeviceKeyPair
from commucat_server.config import ServerConfig
from commucat_server.identity.certificates import CertificateIssuer
from commucat_server.identity.devices import Devices
from commucat_server.ops.audit import OPERATOR
from commucat_server.provision import open_store
from commucat_server.provision.federation_seed import read_federation_keys
from commucat_storage import (
    Device,
    NamedDevice,
    PairingRefusal,
    PairingRefusedError,
    PendingDevice,
    Storage,
    User,
)

Row = dict[str, Any]


class StoreDevices:
    """What the operator does to devices. Each change brings its records for the ledger with it."""

    def __init__(self, config: Path | None, data_dir: Path | None) -> None:
        self._config = config
        self._data_dir = data_dir
        self._settings: ServerConfig | None = None

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Make errors of the server's parts errors of a command."""
        with explained():
            self._settings = load(self._config, self._data_dir)
            storage = self._settings.storage
            if storage.postgres_dsn is None and not storage.path.exists():
                raise OperatorError(f"there is no database at {storage.path}; start the server once")
            refuse_older_schema(self._settings)
            yield

    @property
    def settings(self) -> ServerConfig:
        assert self._settings is not None, "used within explained()"
        return self._settings

    async def listed(self, handle: str | None, *, pending_only: bool) -> list[Row]:
        """All devices, or those of a user."""
        async with open_store(self.settings) as storage:
            user = None if handle is None else await self._user(storage, handle)
            pending = await storage.pending_devices(None if user is None else user.user_id)
            rows = [_pending_row(each) for each in pending]
            if pending_only:
                return rows
            if user is None:
                raise OperatorError("name the user with --handle NAME; without it, pending lists all users'")
            return [_row(each) for each in await storage.devices_of(user.user_id)] + rows

    async def approve(self, device_id: str) -> list[Row]:
        """Let a device in that waits."""
        keys = read_federation_keys(self.settings)
        async with open_store(self.settings) as storage:
            devices = self._devices(storage, keys)
            try:
                device = await devices.approve(await self._waiting(storage, device_id), OPERATOR)
            except PairingRefusedError as exc:
                raise _refused(exc.refusal, device_id) from exc
            return [{"device_id": device.device_id, "status": device.status.value}]

    async def reject(self, device_id: str) -> list[Row]:
        """Turn a device away that waits."""
        keys = read_federation_keys(self.settings)
        async with open_store(self.settings) as storage:
            devices = self._devices(storage, keys)
            try:
                await devices.reject(await self._waiting(storage, device_id), OPERATOR)
            except PairingRefusedError as exc:
                raise _refused(exc.refusal, device_id) from exc
            return [{"device_id": device_id, "status": "rejected"}]

    async def revoke(self, device_id: str) -> list[Row]:
        """End a device for good."""
        keys = read_federation_keys(self.settings)
        async with open_store(self.settings) as storage:
            device = await storage.load_device(device_id)
            if device is None:
                raise OperatorError(f"there is no device {device_id}")
            devices = self._devices(storage, keys)
            await devices.revoke(device, OPERATOR)
            return [{"device_id": device_id, "status": "revoked"}]

    def _devices(self, storage: Storage, keys: DeviceKeyPair) -> Devices:
        issuer = CertificateIssuer(keys, storage, time.time)
        limit = self.settings.limits.devices_per_user
        return Devices(storage, issuer, None, time.time, devices_per_user=limit)

    async def _user(self, storage: Storage, handle: str) -> User:
        domain = self.settings.server.domain
        user = await storage.load_user_by_handle(handle, domain)
        if user is None:
            raise OperatorError(f"there is no user {handle} in {domain}")
        return user

    async def _waiting(self, storage: Storage, device_id: str) -> PendingDevice:
        for pending in await storage.pending_devices():
            if pending.device_id == device_id:
                return pending
        raise _refused(PairingRefusal.UNKNOWN, device_id)


def _refused(refusal: PairingRefusal, device_id: str) -> OperatorError:
    match refusal:
        case PairingRefusal.DEVICE_LIMIT:
            return OperatorError("the user has too many devices; revoke one or raise limits.devices_per_user")
        case PairingRefusal.DEVICE_TAKEN:
            return OperatorError(f"another device has the id {device_id} meanwhile; reject this one")
        case _:
            return OperatorError(f"no device {device_id} waits; list them with: commucat-cli devices pending")


def _row(named: NamedDevice) -> Row:
    device: Device = named.device
    return {
        "device_id": device.device_id,
        "status": device.status.value,
        "created_at": _time(device.created_at),
        "public_key": device.public_key.hex(),
        "device_name": named.name,
        "user_id": device.user_id,
    }


def _pending_row(pending: PendingDevice) -> Row:
    return {
        "device_id": pending.device_id,
        "status": "pending",
        "created_at": _time(pending.requested_at),
        "public_key": pending.public_key.hex(),
        "device_name": pending.name,
        "user_id": pending.user_id,
        "issuer_device_id": pending.issuer_device_id,
        "expires_at": _time(pending.expires_at),
    }


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
