"""Section ``[security.rotation]``: how long the server's own secrets live."""

from typing import Final

import attrs

from commucat_server.config.sections import between, env

_MOST_HOURS: Final = 100 * 365 * 24
_MOST_VERSIONS: Final = 64
_HOUR: Final = 3600


@attrs.frozen(kw_only=True)
class RotationSection:
    """Section ``[security.rotation]``. A new version of a secret never ends an older one at once."""

    noise_interval_hours: int = attrs.field(
        default=168,
        validator=between(0, _MOST_HOURS),
        metadata=env("COMMUCAT_ROTATE_NOISE_INTERVAL_HOURS"),
    )
    """After so long the server makes a new Noise static key by itself; 0 means never."""
    noise_grace_hours: int = attrs.field(
        default=720, validator=between(1, _MOST_HOURS), metadata=env("COMMUCAT_ROTATE_NOISE_GRACE_HOURS")
    )
    """How long clients that know only an older key still get in, counted from the newer one, and from their
    own last connect. As long as messages wait for them by default."""
    noise_max_versions: int = attrs.field(
        default=8, validator=between(1, _MOST_VERSIONS), metadata=env("COMMUCAT_ROTATE_NOISE_MAX_VERSIONS")
    )
    """Keys that the server answers to at once. A rotation that would make more waits: none is cut off."""
    noise_keep_used: bool = attrs.field(default=True, metadata=env("COMMUCAT_ROTATE_NOISE_KEEP_USED"))
    """Whether an older key lives on while clients connect with it. The terminal client of 2025 cannot learn
    a new one."""
    admin_enabled: bool = attrs.field(default=False, metadata=env("COMMUCAT_ROTATE_ADMIN_ENABLED"))
    """Whether administrative tokens end by themselves, after the interval and the grace time."""
    admin_interval_hours: int = attrs.field(
        default=168,
        validator=between(1, _MOST_HOURS),
        metadata=env("COMMUCAT_ROTATE_ADMIN_INTERVAL_HOURS"),
    )
    admin_grace_hours: int = attrs.field(
        default=72, validator=between(0, _MOST_HOURS), metadata=env("COMMUCAT_ROTATE_ADMIN_GRACE_HOURS")
    )
    """How long an older token is good for beside a new one."""
    admin_max_versions: int = attrs.field(
        default=2, validator=between(1, _MOST_VERSIONS), metadata=env("COMMUCAT_ROTATE_ADMIN_MAX_VERSIONS")
    )
    """Tokens that are good at once; a new one ends the oldest of more."""

    @property
    def noise_interval(self) -> int:
        """Seconds."""
        return self.noise_interval_hours * _HOUR

    @property
    def noise_grace(self) -> int:
        """Seconds."""
        return self.noise_grace_hours * _HOUR

    @property
    def admin_interval(self) -> int:
        """Seconds."""
        return self.admin_interval_hours * _HOUR

    @property
    def admin_grace(self) -> int:
        """Seconds."""
        return self.admin_grace_hours * _HOUR
