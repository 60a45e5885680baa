"""Which sessions have ended, asked twice a second for all that there are: mostly nothing has changed."""

import sqlite3
from collections.abc import Sequence

from commucat_storage.sqlite.reads import sessions_ended


class SessionWatch:
    """Keeps, for each reading connection, the sessions it has found alive and the ``data_version`` of then.

    ``PRAGMA data_version`` says whether anybody else, in whatever process, has committed since; what it gives
    means something on one connection only. A connection is used by one thread at a time.
    """

    def __init__(self) -> None:
        self._found: dict[sqlite3.Connection, tuple[int, frozenset[str]]] = {}

    def ended(self, connection: sqlite3.Connection, token_hashes: Sequence[str]) -> frozenset[str]:
        """Those that are no session of an active device."""
        # Before the look: what is committed meanwhile is looked at again the next time.
        [version] = connection.execute("PRAGMA data_version").fetchone()
        asked = frozenset(token_hashes)
        last, alive = self._found.get(connection, (None, frozenset()))
        if version == last and asked <= alive:
            return frozenset()
        ended = sessions_ended(connection, token_hashes)
        self._found[connection] = version, asked - ended
        return ended
