"""Why a server cannot be provisioned, each in one line that says what to do."""

from commucat_server.config.errors import one_line


class ProvisionError(Exception):
    """Something in or around the data directory is missing, damaged or forbidden. One printable line."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


class DataDirBusyError(ProvisionError):
    """Another server uses the data directory."""


class TooManyKeysError(ProvisionError):
    """A rotation would make more versions than the configuration allows, and none may be cut off."""

    def __init__(self, versions: int, first_expires_at: int) -> None:
        super().__init__(
            f"the server answers to {versions} Noise keys already, as many as "
            "security.rotation.noise_max_versions allows; the next one is made when the oldest has expired"
        )
        self.first_expires_at = first_expires_at
        """Unix seconds."""
