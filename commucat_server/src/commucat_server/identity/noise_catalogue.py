"""The Noise keys of this process: what handshakes are tried with, and what clients are told."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from commucat_crypto import DeviceKeyPair, NoiseKeyStatement
from commucat_proto import ServerParameters
from commucat_proto.server_session import ServerKey
from commucat_server.ops.times import rfc3339
from commucat_server.provision.noise_keys import NoiseKeyVersion


class NoiseCatalogue:
    """All versions that the process accepts. New handshakes see a change at once; sessions go on."""

    def __init__(
        self,
        versions: Sequence[NoiseKeyVersion],
        parameters: ServerParameters,
        *,
        clock: Callable[[], float],
        authority: DeviceKeyPair | None = None,
    ) -> None:
        """``parameters`` without keys. ``authority`` signs what clients are told; without, nothing is
        signed."""
        self._template = parameters
        self._clock = clock
        self._authority = authority
        self._entries: dict[NoiseKeyVersion, dict[str, Any]] = {}
        self._used: set[int] = set()
        self._versions: tuple[NoiseKeyVersion, ...] = ()
        self._parameters = parameters
        self.replace(versions)

    @property
    def versions(self) -> tuple[NoiseKeyVersion, ...]:
        """All accepted ones, newest first."""
        return self._versions

    @property
    def parameters(self) -> ServerParameters:
        """What a new session needs."""
        return self._parameters

    def replace(self, versions: Sequence[NoiseKeyVersion]) -> None:
        """Take over what the store has now; newest first, at least one."""
        if not versions:
            raise ValueError("a server has at least one Noise key")
        if tuple(versions) == self._versions:
            return
        self._versions = tuple(versions)
        keys = [ServerKey(version=each.version, keys=each.keys) for each in versions]
        self._parameters = attrs.evolve(self._template, keys=keys)
        # Each connect is told some of them.
        self._entries = {each: self._entry(each) for each in versions}

    def entries(self) -> list[dict[str, Any]]:
        """What clients are told: the versions that are shown, newest first, as JSON not to be changed."""
        now = self._clock()
        shown = [each for each in self._versions if each.valid_after <= now]
        return [self._entries[each] for each in shown or self._versions[-1:]]

    def note_use(self, version: int) -> dict[str, Any]:
        """A handshake with this version has succeeded; what its client is told about it."""
        self._used.add(version)
        for each in self._versions:
            if each.version == version:
                return self._entries[each]
        # It expired while the handshake was under way.
        return self.entries()[0]

    def take_used(self) -> set[int]:
        """The versions that clients have used since the last call."""
        used, self._used = self._used, set()
        return used

    def give_back_used(self, versions: Iterable[int]) -> None:
        """What was taken could not be dealt with."""
        self._used |= set(versions)

    def _entry(self, version: NoiseKeyVersion) -> dict[str, Any]:
        signature = self._signature(version)
        entry = {
            "version": version.version,
            "public": version.keys.public.hex(),
            "valid_after": rfc3339(version.valid_after),
            "rotates_at": rfc3339(version.rotates_at),
            "expires_at": rfc3339(version.expires_at),
        }
        return entry | ({"signature": signature} if signature else {})

    def _signature(self, version: NoiseKeyVersion) -> str:
        if self._authority is None:
            return ""
        statement = NoiseKeyStatement(
            domain=self._template.domain,
            version=version.version,
            public=version.keys.public,
            valid_after=version.valid_after,
            rotates_at=version.rotates_at,
            expires_at=version.expires_at,
        )
        return statement.sign(self._authority).hex()
