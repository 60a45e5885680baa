"""The CommuCat server: routes end-to-end encrypted messages between devices.

Started by ``commucat-server``. To run it inside another Trio program, see
:func:`commucat_server.app.serve`; it is not imported here, because operators' tools that
only read the configuration should not load the whole server.
"""

from commucat_server.config import ConfigError, ServerConfig, load_config

__all__ = ["ConfigError", "ServerConfig", "load_config"]
