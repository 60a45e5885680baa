"""Keeps a profile connected: one session after another, until the work is done."""

from collections.abc import Awaitable, Callable

from commucat_cli.client.answers import Answer
from commucat_cli.client.connection import Connection
from commucat_cli.client.peers import PeerDirectory
from commucat_cli.client.session import Backoff, Notice, open_session
from commucat_cli.errors import HandshakeRefused, RetryableError, ServerBusyError
from commucat_cli.profile import Profile
from commucat_cli.transport import Timeouts, Via

PATIENCE = 5
"""Refusals in a row that are borne while the device's key is being changed."""


async def keep_connected(
    profile: Profile,
    work: Callable[[Connection, PeerDirectory], Awaitable[None]],
    *,
    receives: bool,
    notice: Notice,
    reported: bool = False,
    capabilities: tuple[str, ...] = (),
    timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
    via: Via | None = None,
) -> None:
    """Run ``work`` with a session; if that is lost, connect again and run it anew, until it returns.

    ``receives``, ``reported`` and ``capabilities``: see :func:`open_session`. ``via`` None: the way that was
    chosen at login.

    Raises:
        CliError: what connecting again does not cure.
    """

    def complain(answer: Answer) -> None:
        notice(f"the server refused a frame: {answer.text}")

    backoff = Backoff(notice)
    refusals = 0
    while True:
        try:
            async with open_session(
                profile,
                receives=receives,
                reported=reported,
                capabilities=capabilities,
                timeouts=timeouts,
                via=via,
            ) as connection:
                connection.on_complaint = complain
                directory = PeerDirectory(profile.state, profile.account().device_ca, connection)
                backoff.succeeded()
                refusals = 0
                await work(connection, directory)
                return
        except HandshakeRefused as exc:
            # Another command changes the device's key: between the server's answer and its note of that the
            # old key is refused.
            refusals += 1
            if refusals > PATIENCE or not _key_may_have_changed(profile):
                raise
            await backoff.after(ServerBusyError(str(exc)))
        except RetryableError as exc:
            await backoff.after(exc)


def _key_may_have_changed(profile: Profile) -> bool:
    before = profile.keys
    now = profile.reload_keys()
    return now.next is not None or now.device.public != before.device.public
