"""``commucat-cli peers``: servers of other domains."""

import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, TypeAlias

import attrs
import typer

from commucat_cli.commands.operator.on_store import on_store
from commucat_cli.commands.operator.operator_options import LimitOption, YesOption, confirmed
from commucat_cli.commands.operator.settings import ConfigFile, DataDirectory, OperatorError
from commucat_cli.commands.options import JsonOption, encodable
from commucat_cli.commands.outcome import finish
from commucat_cli.commands.results import Row, moment, print_rows, print_values
from commucat_server.config import ServerConfig
from commucat_server.config.errors import InvalidValueError
from commucat_server.config.federation_section import peer_domain, peer_endpoint, peer_key
from commucat_server.federation.discovery import DiscoveryError, discover
from commucat_server.federation.figures import as_peer, peer_figures
from commucat_server.provision import operator_record
from commucat_storage import (
    DeadLetter,
    Once,
    OperatorRecord,
    Peer,
    PeerStatus,
    Storage,
    Submission,
    SubmissionOutcome,
)

_RESENT_SECONDS: Final = 86_400
"""How long it is known, beyond the message's own time, that a dead letter was sent again."""

peers_app = typer.Typer(help="Servers of other domains, and what waits for them.", no_args_is_help=True)


def _domain(text: str | None) -> str | None:
    if text is None:
        return None
    return str(_checked(peer_domain, encodable(text) or ""))


def _endpoint(text: str | None) -> str | None:
    return None if text is None else _checked(peer_endpoint, text)


def _key(text: str | None) -> str | None:
    return None if text is None else _checked(peer_key, text).hex()


def _checked(check: Callable[[str], Any], text: str) -> Any:
    try:
        return check(text)
    except InvalidValueError as exc:
        raise typer.BadParameter(str(exc)) from exc


Domain: TypeAlias = Annotated[
    str, typer.Argument(metavar="DOMAIN", callback=_domain, help="The other server's domain.")
]
SomeDomain: TypeAlias = Annotated[
    str | None,
    typer.Argument(metavar="[DOMAIN]", callback=_domain, help="Of this domain only.", show_default=False),
]


@peers_app.command("list")
def list_peers(
    as_json: JsonOption = False, config: ConfigFile = None, data_dir: DataDirectory = None
) -> None:
    """List the servers that are known, how they are, and what waits for them.

    source: configuration or store. state: how the server was when it was spoken to last. waiting: messages
    in its outbox; oldest_seconds: the age of the one that expires first. dead_letters: messages that it has
    refused for good.
    """

    def command() -> int:
        print_rows("peers", on_store(config, data_dir, _rows), as_json=as_json)
        return 0

    finish(command)


@peers_app.command("show")
def show(
    domain: Domain, as_json: JsonOption = False, config: ConfigFile = None, data_dir: DataDirectory = None
) -> None:
    """Show one server as `list` does, one line for each value."""

    def command() -> int:
        async def work(storage: Storage, settings: ServerConfig) -> Row:
            for row in await _rows(storage, settings):
                if row["domain"] == domain:
                    return row
            raise OperatorError(f"there is no peer {domain}")

        print_values(on_store(config, data_dir, work), as_json=as_json)
        return 0

    finish(command)


@peers_app.command("add")
def add(
    domain: Domain,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", metavar="URL", callback=_endpoint, help="Where it takes events."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="HEX", callback=_key, help="Its key, from its operator."),
    ] = None,
    pending: Annotated[
        bool,
        typer.Option("--pending", help="Active only when it has taken something for the first time."),
    ] = False,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """Let users write to a server of another domain, and it to them.

    What is not given is asked for at https://DOMAIN/.well-known/commucat-federation (or at the endpoint),
    whose certificate must be trusted; compare the key that is printed with the other operator. With both
    options nobody is asked. The running server follows within a second.
    """

    def command() -> int:
        async def work(storage: Storage, settings: ServerConfig) -> Row:
            if domain == settings.server.domain.lower():
                raise OperatorError(f"{domain} is this server's own domain")
            if await storage.load_peer(domain) is not None:
                raise OperatorError(
                    f"{domain} is known already; change it with `peers set`, or remove it first"
                )
            if endpoint is not None and key is not None:
                found = endpoint, key
            else:
                try:
                    found = await discover(settings, domain, endpoint, key)
                except DiscoveryError as exc:
                    raise OperatorError(str(exc)) from exc
            now = int(time.time())
            peer = Peer(
                domain=domain,
                endpoint=found[0],
                public_key=bytes.fromhex(found[1]),
                status=PeerStatus.PENDING if pending else PeerStatus.ACTIVE,
                created_at=now,
                updated_at=now,
            )
            await storage.put_peer(peer, _record(domain, "add", now, key=peer.public_key.hex()))
            return _stored(peer)

        print_values(on_store(config, data_dir, work), as_json=as_json)
        return 0

    finish(command)


@peers_app.command("set")
def set_peer(
    domain: Domain,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", metavar="URL", callback=_endpoint, help="Where it takes events now."),
    ] = None,
    next_key: Annotated[
        str | None,
        typer.Option(
            "--next-key", metavar="HEX", callback=_key, help="A key that is good beside the present one."
        ),
    ] = None,
    finish_rotation: Annotated[
        bool,
        typer.Option("--finish", help="From now on only the key that was given with --next-key."),
    ] = False,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """Change address or key of a server.

    A new key comes in two steps, so that nothing is refused in between: --next-key before the other server
    changes it, --finish when it has. The next key of a server of the configuration is stored beside it;
    change the configuration before --finish.
    """
    if (endpoint is not None) + (next_key is not None) + finish_rotation != 1:
        raise typer.BadParameter("give one of --endpoint, --next-key and --finish", param_hint="--endpoint")

    def changed(peer: Peer, now: int) -> tuple[Peer, OperatorRecord]:
        if endpoint is not None:
            return attrs.evolve(peer, endpoint=endpoint), _record(domain, "endpoint", now)
        if next_key is not None:
            return (
                attrs.evolve(peer, next_key=bytes.fromhex(next_key)),
                _record(domain, "next-key", now, key=next_key),
            )
        if peer.next_key is None:
            raise OperatorError(f"{domain} has no next key; give it with --next-key first")
        key = peer.next_key
        return (
            attrs.evolve(peer, public_key=key, next_key=None),
            _record(domain, "finish-key", now, key=key.hex()),
        )

    def command() -> int:
        print_values(on_store(config, data_dir, _change(domain, changed)), as_json=as_json)
        return 0

    finish(command)


@peers_app.command("block")
def block(
    domain: Domain, as_json: JsonOption = False, config: ConfigFile = None, data_dir: DataDirectory = None
) -> None:
    """Neither hear a server nor write to it, whatever the configuration says. What waits for it stays."""
    _set_status(domain, PeerStatus.BLOCKED, "block", config, data_dir, as_json=as_json)


@peers_app.command("activate")
def activate(
    domain: Domain, as_json: JsonOption = False, config: ConfigFile = None, data_dir: DataDirectory = None
) -> None:
    """Hear a server and write to it: one that was blocked, or waits for its first success."""
    _set_status(domain, PeerStatus.ACTIVE, "activate", config, data_dir, as_json=as_json)


def _set_status(
    domain: str, status: PeerStatus, event: str, config: Any, data_dir: Any, *, as_json: bool
) -> None:
    def changed(peer: Peer, now: int) -> tuple[Peer, OperatorRecord]:
        return attrs.evolve(peer, status=status), _record(domain, event, now)

    def command() -> int:
        print_values(on_store(config, data_dir, _change(domain, changed)), as_json=as_json)
        return 0

    finish(command)


@peers_app.command("remove")
def remove(
    domain: Domain,
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """Forget a stored server, and delete what waits for it, undelivered; senders that asked are told.

    Prints domain and purged=N.
    """
    confirmed(yes=yes, what="messages that wait for it are lost")

    def command() -> int:
        async def work(storage: Storage, _: ServerConfig) -> Row:
            now = int(time.time())
            if not await storage.remove_peer(domain, _record(domain, "remove", now)):
                raise OperatorError(f"there is no stored peer {domain}")
            await storage.set_outbox(domain, open=False)
            return {"domain": domain, "purged": await storage.purge_outbox(domain)}

        print_values(on_store(config, data_dir, work), as_json=as_json)
        return 0

    finish(command)


@peers_app.command("retry")
def retry(
    domain: SomeDomain = None,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """Have the running server try now what waits, instead of after its pause.

    Prints waiting=N.
    """

    def command() -> int:
        async def work(storage: Storage, _: ServerConfig) -> Row:
            waiting = [
                each.rows for each in await storage.outboxes() if domain is None or each.domain == domain
            ]
            if domain is not None and not waiting:
                raise OperatorError(f"there is no peer {domain}")
            await storage.add_operator_record(_record(domain or "all", "retry", int(time.time())))
            return {"domain": domain, "waiting": sum(waiting)}

        print_values(on_store(config, data_dir, work), as_json=as_json)
        return 0

    finish(command)


@peers_app.command("dead-letters")
def dead_letters(
    domain: SomeDomain = None,
    limit: LimitOption = 100,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """List messages that a server has refused for good, the newest first, and why.

    They are kept until they would have expired.
    """

    def command() -> int:
        async def work(storage: Storage, _: ServerConfig) -> list[Row]:
            return [_letter_row(letter) for letter in await storage.dead_letters(domain, limit)]

        print_rows("dead_letters", on_store(config, data_dir, work), as_json=as_json)
        return 0

    finish(command)


Letter: TypeAlias = Annotated[
    str, typer.Argument(metavar="LETTER", callback=encodable, help="Its id, as `dead-letters` shows it.")
]


@peers_app.command("resend")
def resend(
    letter_id: Letter,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """Put a dead letter into the outbox again, as a new message."""

    def command() -> int:
        async def work(storage: Storage, _: ServerConfig) -> Row:
            letter = await _find_letter(storage, letter_id)
            now = int(time.time())
            submission = Submission(
                letter.sender,
                letter.channel,
                letter.frame_type,
                letter.payload,
                letter.expires_at,
                (letter.target,),
                report=letter.report,
                reference=letter.reference,
                group_id=letter.group_id,
                # Whoever is stopped before the letter is gone, and tries again, does not send it twice.
                once=Once("dead-letter", letter_id, max(now, letter.expires_at) + _RESENT_SECONDS),
            )
            [outcome] = await storage.commit([submission])
            assert isinstance(outcome, SubmissionOutcome), "a submission was asked for"
            if not outcome.accepted and not outcome.duplicate:
                reasons = ", ".join(refusal.reason.value for refusal in outcome.refused)
                raise OperatorError(f"the outbox of {letter.domain} does not take it: {reasons}")
            await storage.forget_dead_letters([letter_id])
            await storage.add_operator_record(_record(letter.domain, "resend", now))
            return {"letter": letter_id, "domain": letter.domain, "target": letter.target}

        print_values(on_store(config, data_dir, work), as_json=as_json)
        return 0

    finish(command)


@peers_app.command("drop")
def drop(
    letter_id: Letter,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """Delete a dead letter."""

    def command() -> int:
        async def work(storage: Storage, _: ServerConfig) -> Row:
            letter = await _find_letter(storage, letter_id)
            await storage.forget_dead_letters([letter_id])
            await storage.add_operator_record(_record(letter.domain, "drop", int(time.time())))
            return {"letter": letter_id, "domain": letter.domain}

        print_values(on_store(config, data_dir, work), as_json=as_json)
        return 0

    finish(command)


# -- what they have in common ----------------------------------------------------------------------


def _change(
    domain: str, changed: Callable[[Peer, int], tuple[Peer, OperatorRecord]]
) -> Callable[[Storage, ServerConfig], Awaitable[Row]]:
    async def work(storage: Storage, settings: ServerConfig) -> Row:
        now = int(time.time())
        peer = await storage.load_peer(domain) or _configured(settings, domain, now)
        if peer is None:
            raise OperatorError(f"there is no peer {domain}; add it with: commucat-cli peers add {domain}")
        after, record = changed(peer, now)
        after = attrs.evolve(after, updated_at=now)
        await storage.put_peer(after, record)
        return _stored(after)

    return work


def _configured(settings: ServerConfig, domain: str, now: int) -> Peer | None:
    """A server of the configuration as it would be stored."""
    for peer in settings.federation.peers.peers:
        if peer.domain == domain:
            return as_peer(peer, now)
    return None


async def _rows(storage: Storage, settings: ServerConfig) -> list[Row]:
    found = await peer_figures(
        storage,
        settings.federation.peers.peers,
        relay_ttl=settings.limits.relay_ttl,
        now=int(time.time()),
    )
    return [
        attrs.asdict(each)
        | {
            "last_seen_at": moment(each.last_seen_at),
            "public_key": each.public_key.hex(),
            "next_key": None if each.next_key is None else each.next_key.hex(),
        }
        for each in found
    ]


def _stored(peer: Peer) -> Row:
    return {
        "domain": peer.domain,
        "endpoint": peer.endpoint,
        "public_key": peer.public_key.hex(),
        "next_key": None if peer.next_key is None else peer.next_key.hex(),
        "status": peer.status.value,
    }


def _letter_row(letter: DeadLetter) -> Row:
    return {
        "letter": letter.letter_id,
        "domain": letter.domain,
        "target": letter.target,
        "sender": letter.sender or None,
        "bytes": len(letter.payload),
        "failed_at": moment(letter.failed_at),
        "reason": letter.reason,
    }


async def _find_letter(storage: Storage, letter_id: str) -> DeadLetter:
    for letter in await storage.dead_letters(None, 100_000):
        if letter.letter_id == letter_id:
            return letter
    raise OperatorError(f"there is no dead letter {letter_id}")


def _record(domain: str, event: str, now: int, **more: str) -> OperatorRecord:
    metadata = {"scope": "federation", "event": event, "domain": domain, "by": "operator", **more}
    return operator_record(domain, metadata, now)
