"""The version that this server tells about itself."""

from importlib.metadata import PackageNotFoundError, version


def server_version() -> str:
    """Version of the installed distribution: the package's own, or the development umbrella's."""
    for name in ("commucat-server", "commucat"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"
