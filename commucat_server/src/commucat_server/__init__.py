"""The CommuCat server: routes end-to-end encrypted messages between devices.

Started by ``commucat-server``; :func:`serve` runs it inside another Trio program.
"""

from commucat_server.app import RunningServer, serve
from commucat_server.config import ConfigError, ServerConfig, load_config
from commucat_server.listener import ShutdownSignal

__all__ = ["ConfigError", "RunningServer", "ServerConfig", "ShutdownSignal", "load_config", "serve"]
