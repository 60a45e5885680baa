"""The ledger's log, whose library is imported with its first line.

Most programs that read a ledger, or only the types of its records, log nothing; the library would be a
quarter of the time that a command of theirs takes to start.
"""

from typing import Any, Final


class LedgerLog:
    """The methods of a logger that the ledger uses."""

    def info(self, event: str, **details: object) -> None:
        """Nothing that anybody has to do something about."""
        self._logger().info(event, **details)

    def warning(self, event: str, **details: object) -> None:
        """Something was not as it should be; the ledger goes on."""
        self._logger().warning(event, **details)

    def error(self, event: str, **details: object) -> None:
        """Records are not written, or lost."""
        self._logger().error(event, **details)

    def exception(self, event: str, **details: object) -> None:
        """An error of which the exception that is being handled tells more."""
        self._logger().exception(event, **details)

    # Any: loggers have the type of whatever the program has configured.
    def _logger(self) -> Any:
        import structlog

        return structlog.get_logger("commucat.ledger")


log: Final = LedgerLog()
