"""Everything that the journal of a process remembers of the database."""

import attrs

from commucat_storage.postgres.loaded import Changes
from commucat_storage.postgres.remembered import Generations, KnownGroup, Relations
from commucat_storage.postgres.settings import PostgresSettings
from commucat_storage.postgres.standings import Standings


@attrs.frozen
class Memory:
    """Nothing in it is believed without a look into the database, in the transaction that uses it."""

    relations: Generations[Relations]
    groups: Generations[KnownGroup]
    siblings: Generations[tuple[str, ...]]
    """Devices of users; no counter tells that they are right."""
    standings: Standings

    @classmethod
    def of(cls, settings: PostgresSettings) -> "Memory":
        """An empty one, as large as the settings say."""
        return cls(
            Generations(settings.cached_inboxes),
            Generations(settings.cached_group_members),
            Generations(settings.cached_inboxes),
            Standings(settings.cached_inboxes),
        )

    def forget(self, changes: Changes) -> None:
        """Drop what has been changed."""
        self.relations.forget(changes.devices)
        self.standings.forget(changes.devices)
        self.groups.forget(changes.groups)
