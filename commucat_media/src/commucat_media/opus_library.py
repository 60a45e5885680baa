"""Finds libopus through PyOgg, once, when the first codec is made."""

import functools
import os
import threading
from types import ModuleType
from typing import Final

from commucat_media.errors import MediaLibraryMissingError

DEBIAN_PACKAGES: Final = "libopus0 libogg0 libopusfile0"
_loading: Final = threading.Lock()


def opus_library() -> ModuleType:
    """Return PyOgg's functions of libopus. The first call takes about a quarter of a second.

    Raises:
        MediaLibraryMissingError: libopus, or what PyOgg wants beside it, is not installed.
    """
    # Two threads that make their first codec at once must not both see the environment changed below.
    with _loading:
        return _load()


@functools.cache
def _load() -> ModuleType:
    # PyOgg fails without PATH and appends to it, so that the last directory of the list is no longer found
    # and the working directory is: programs started later would suffer from it.
    path = os.environ.get("PATH")
    os.environ.setdefault("PATH", os.defpath)
    try:
        import pyogg.opus
    finally:
        if path is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = path
    found = {
        "libogg": pyogg.opus.PYOGG_OGG_AVAIL,
        "libopus": pyogg.opus.PYOGG_OPUS_AVAIL,
        "libopusfile": pyogg.opus.PYOGG_OPUS_FILE_AVAIL,
    }
    missing = [name for name, there in found.items() if not there]
    if missing:
        # PyOgg defines the functions of libopus only where it finds libopusfile too, and that needs libogg.
        raise MediaLibraryMissingError(
            f"Opus needs {', '.join(missing)}, not found here; on Debian: apt-get install {DEBIAN_PACKAGES}"
        )
    library: ModuleType = pyogg.opus
    return library
