"""Why a server cannot be provisioned, each in one line that says what to do."""

from commucat_server.config.errors import one_line


class ProvisionError(Exception):
    """Something in or around the data directory is missing, damaged or forbidden. One printable line."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


class DataDirBusyError(ProvisionError):
    """Another server uses the data directory."""
