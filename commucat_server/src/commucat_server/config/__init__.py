"""The server's configuration: one call reads flags, environment, ``.env`` and the TOML file into frozen
sections, strictly, and says in one line what is wrong. Nothing is silently ignored.
"""

from commucat_server.config.access_sections import AdminSection, ProxyHeader, ProxySection, RateLimitSection
from commucat_server.config.address import BindAddress
from commucat_server.config.calls_section import CallsSection, FromStrangers
from commucat_server.config.errors import ConfigError, FlagError
from commucat_server.config.load import ServerConfig, load_config
from commucat_server.config.networks import Networks
from commucat_server.config.sections import (
    CLEAR_MAX_FRAME,
    ChannelsSection,
    ClearFrames,
    CryptoSection,
    LedgerMode,
    LedgerSection,
    LimitsSection,
    LoggingSection,
    LogLevel,
    SecuritySection,
    ServerSection,
    StorageSection,
    TimeoutsSection,
    TransportSection,
)

__all__ = [
    "CLEAR_MAX_FRAME",
    "AdminSection",
    "BindAddress",
    "CallsSection",
    "ChannelsSection",
    "ClearFrames",
    "ConfigError",
    "CryptoSection",
    "FlagError",
    "FromStrangers",
    "LedgerMode",
    "LedgerSection",
    "LimitsSection",
    "LogLevel",
    "LoggingSection",
    "Networks",
    "ProxyHeader",
    "ProxySection",
    "RateLimitSection",
    "SecuritySection",
    "ServerConfig",
    "ServerSection",
    "StorageSection",
    "TimeoutsSection",
    "TransportSection",
    "load_config",
]
