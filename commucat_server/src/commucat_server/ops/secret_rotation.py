"""The life of the server's secrets while it runs: new versions in time, and those that others have made."""

import math
from collections.abc import Callable

import structlog
import trio

from commucat_server.config import ServerConfig
from commucat_server.identity.admin_tokens import AdminTokens
from commucat_server.identity.noise_catalogue import NoiseCatalogue
from commucat_server.provision.errors import ProvisionError, TooManyKeysError
from commucat_server.provision.noise_keys import (
    NOISE_SECRET,
    REFRESH_INTERVAL,
    read_noise_keys,
    rotate_noise_keys,
)
from commucat_storage import AlreadyExistsError, Storage, StorageError

log = structlog.get_logger("commucat.secrets")

LEASE = "secrets"
KEPT_EXPIRED = 30 * 86_400
"""Seconds for which an expired version is kept, for those who ask what happened."""
_EXTENSION_STEP = 24
"""A version in use is prolonged when this part of its grace time has passed, not at each connect."""


class SecretRotations:
    """Reads the store every minute, and when it is told to; one node of a cluster makes new versions."""

    def __init__(
        self,
        *,
        storage: Storage,
        config: ServerConfig,
        catalogue: NoiseCatalogue,
        admin_tokens: AdminTokens,
        clock: Callable[[], float],
    ) -> None:
        self._storage = storage
        self._config = config
        self._rotation = config.security_rotation
        self._catalogue = catalogue
        self._admin_tokens = admin_tokens
        self._clock = clock
        self._trouble: str | None = None
        # What was read before must not replace what was read later.
        self._reading = trio.Lock()
        self._postponed = False

    async def run(self) -> None:
        """Never returns; what fails is told in the log, once for the same reason, and tried again."""
        while True:
            await self.tick()
            await trio.sleep(REFRESH_INTERVAL)

    async def tick(self) -> None:
        """Do what is due now."""
        try:
            await self.refresh()
            await self._prolong_used()
            await self._rotate_if_due()
        except (StorageError, ProvisionError) as exc:
            self._tell(str(exc))
        else:
            self._tell(None)

    async def refresh(self) -> None:
        """Take over the versions as the store has them.

        Raises:
            StorageError, ProvisionError: they cannot be read; this process goes on with what it has.
        """
        async with self._reading:
            await self._refresh()

    async def _refresh(self) -> None:
        now = int(self._clock())
        before = self._catalogue.versions[0].version
        self._catalogue.replace(await read_noise_keys(self._storage, self._config, now))
        newest = self._catalogue.versions[0]
        if newest.version > before:
            log.info("noise key taken over", version=newest.version, public=newest.keys.public.hex())
        await self._admin_tokens.refresh(self._storage)
        for warning in self._admin_tokens.warnings(now):
            log.warning(warning)

    async def _prolong_used(self) -> None:
        used = self._catalogue.take_used()
        if not self._rotation.noise_keep_used:
            return
        now = int(self._clock())
        until = now + self._rotation.noise_grace
        late = until - self._rotation.noise_grace // _EXTENSION_STEP
        for version in self._catalogue.versions[1:]:
            if version.version in used and version.expires_at < late:
                try:
                    # Not if an operator has revoked it meanwhile.
                    await self._storage.set_secret_expiry(
                        NOISE_SECRET, version.version, until, before=version.expires_at
                    )
                except StorageError:
                    self._catalogue.give_back_used(used)
                    raise

    async def _rotate_if_due(self) -> None:
        now = int(self._clock())
        newest = self._catalogue.versions[0]
        if not self._rotation.noise_interval or newest.rotates_at > now:
            return
        if not await self._storage.take_lease(LEASE, 2 * REFRESH_INTERVAL):
            return
        try:
            fresh = await rotate_noise_keys(
                self._storage, self._config, now, by="schedule", after=newest.version
            )
        except AlreadyExistsError:
            pass  # another node was faster
        except TooManyKeysError as exc:
            if not self._postponed:
                hours = math.ceil(max(0, exc.first_expires_at - now) / 3600)
                log.warning("rotation of the noise key is postponed", reason=str(exc), hours=hours)
            self._postponed = True
            return
        else:
            log.info("rotated noise static key", version=fresh.version, public=fresh.keys.public.hex())
        self._postponed = False
        await self.refresh()
        await self._storage.forget_secrets(now - KEPT_EXPIRED)

    def _tell(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self._trouble:
            log.error("secrets cannot be read anew; going on with those there are", reason=trouble)
        self._trouble = trouble
