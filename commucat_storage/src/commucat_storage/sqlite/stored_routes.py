"""Routes as rows: each change is written at once, in the writer's transaction."""

import json
import sqlite3

from commucat_storage.ports import ChatGroups, Inboxes
from commucat_storage.records import Route
from commucat_storage.routes import Routes
from commucat_storage.sqlite.settings import SqliteSettings


class SqliteRoutes(Routes):
    """Writes routes with the writer's connection."""

    def __init__(
        self, connection: sqlite3.Connection, inboxes: Inboxes, groups: ChatGroups, settings: SqliteSettings
    ) -> None:
        super().__init__(inboxes, groups, settings)
        self._connection = connection

    def _write(self, device_id: str, channel: int, route: Route) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO route VALUES (?, ?, ?, ?, ?)",
            (device_id, channel, int(route.relay), json.dumps(sorted(route.members)), route.group_id),
        )

    def _delete(self, device_id: str, channel: int) -> None:
        self._connection.execute(
            "DELETE FROM route WHERE device_id = ? AND channel = ?", (device_id, channel)
        )
