"""A new configuration for a server that runs: what can be changed is changed, the rest is named.

Nothing is changed before everything has been read and checked, so a configuration with a mistake changes
nothing at all.
"""

import datetime
from collections.abc import Callable
from typing import Final

import attrs
import structlog

from commucat_server.config import LogLevel, ServerConfig
from commucat_server.config.keys import SECTIONS
from commucat_server.connect.context import ConnectContext
from commucat_server.listener import TlsIdentity, tls_context
from commucat_server.ops.delivery_log import DeliveryLog
from commucat_server.ops.logs import configure_logs
from commucat_server.provision.tls_files import ensure_tls_files
from commucat_server.security.clients import ClientAddresses
from commucat_server.security.limits import RateLimits

log = structlog.get_logger("commucat")

RELOADED: Final = frozenset(
    {
        "limits.connects_per_second",
        "limits.new_devices_per_hour",
        "limits.handshakes",
        "limits.channel_members",
        "limits.inbox_rows",
        "limits.inbox_bytes",
        "limits.stranger_rows",
        "limits.stranger_bytes",
        "limits.pairing_ttl",
        "limits.devices_per_user",
        "pairing.require_approval",
        "pairing.failures_per_hour",
        "calls.grace",
        "calls.per_device",
        "calls.participants",
        "calls.total",
        "calls.call_waiting",
        "calls.from_strangers",
        "calls.keep",
        "attachments.max_bytes",
        "attachments.user_bytes",
        "attachments.ttl",
        "attachments.upload_ttl",
        "admin.token",
        "logging.level",
        "proxy.trusted",
        "proxy.header",
        "server.tls_cert",
        "server.tls_key",
    }
)
"""Keys that a reload puts in force, beside all of ``security.rate_limit``. Others need a restart."""
_RELOADED_SECTION: Final = "security.rate_limit"


class Reload:
    """Puts configurations in force, one after the other."""

    def __init__(
        self,
        config: ServerConfig,
        *,
        tls: TlsIdentity,
        limits: RateLimits,
        clients: ClientAddresses,
        connect: ConnectContext,
        deliveries: DeliveryLog,
        take_limits: Callable[[ServerConfig], None],
    ) -> None:
        """``take_limits`` puts the numbers in force that belong to the services."""
        self._started_with = config
        self._tls = tls
        self._limits = limits
        self._clients = clients
        self._connect = connect
        self._deliveries = deliveries
        self._take_limits = take_limits
        deliveries.tell(config.logging.level is LogLevel.DEBUG)

    def __call__(self, config: ServerConfig) -> None:
        """Put ``config`` in force. The certificate and its key are read again in any case.

        Raises:
            ProvisionError, TlsConfigError: the certificate or its key cannot be used; nothing has changed.
        """
        now = datetime.datetime.now(datetime.UTC)
        # The data directory is the one that is locked, whatever the new configuration says.
        files = ensure_tls_files(attrs.evolve(config, data_dir=self._started_with.data_dir), now=now)
        context = tls_context(files.certificate, files.key)
        self._tls.context = context
        self._limits.configure(config)
        self._take_limits(config)
        self._clients.trusted, self._clients.header = config.proxy.trusted, config.proxy.header
        self._connect.settings = attrs.evolve(
            self._connect.settings,
            max_handshakes=config.limits.handshakes,
            channel_members=config.limits.channel_members,
        )
        configure_logs(config.logging.level)
        self._deliveries.tell(config.logging.level is LogLevel.DEBUG)
        for warning in files.warnings:
            log.warning(warning)
        unchanged = needs_restart(self._started_with, config)
        if unchanged:
            log.warning("some settings need a restart", keys=unchanged)
        log.info(
            "configuration reloaded", certificate=str(files.certificate), level=config.logging.level.value
        )


def check_configuration(config: ServerConfig) -> None:
    """Whether a server could start with it, as far as that can be told from outside.

    Raises:
        ProvisionError, TlsConfigError: the certificate or its key cannot be used.
    """
    files = ensure_tls_files(config, now=datetime.datetime.now(datetime.UTC))
    tls_context(files.certificate, files.key)


def needs_restart(old: ServerConfig, new: ServerConfig) -> list[str]:
    """Keys that differ and that no reload puts in force; names only, as values may be secret."""
    keys = [] if old.data_dir == new.data_dir else ["data_dir"]
    for section, kind in SECTIONS.items():
        if section == _RELOADED_SECTION:
            continue
        name = section.replace(".", "_")
        before, after = getattr(old, name), getattr(new, name)
        keys += [
            f"{section}.{field.name}"
            for field in attrs.fields(kind)
            if f"{section}.{field.name}" not in RELOADED
            and getattr(before, field.name) != getattr(after, field.name)
        ]
    return keys
