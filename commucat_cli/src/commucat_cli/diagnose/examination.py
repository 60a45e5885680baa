"""All checks in their order: what a later one needs comes first."""

from collections.abc import Callable, Iterator
from functools import partial

from commucat_cli.diagnose.audit import check_clock, check_ledger
from commucat_cli.diagnose.directory import check_directory
from commucat_cli.diagnose.finding import Finding, failure, ok, warning
from commucat_cli.diagnose.limits import check_limits, check_port
from commucat_cli.diagnose.listening import check_server
from commucat_cli.diagnose.shared import check_shared
from commucat_cli.diagnose.store import check_store
from commucat_cli.diagnose.tls import check_tls
from commucat_server.config import ServerConfig
from commucat_server.provision import ProvisionError, read_federation_keys

Check = Callable[[ServerConfig], Iterator[Finding]]


def examine(config: ServerConfig, *, full: bool = False) -> Iterator[Finding]:
    """Run every check; a check that cannot be made is a failure of its own.

    ``full`` reads the whole database for damage, which takes long for a large one. Blocks.
    """
    checks: dict[str, Check] = {
        "configuration": _check_configuration,
        "data-directory": check_directory,
        "tls": check_tls,
        "federation-seed": _check_seed,
        # Before the database, whose probe row gives the file a new time.
        "clock": check_clock,
        "database": partial(check_store, full=full),
        "redis": check_shared,
        "ledger": check_ledger,
        "open-files": check_limits,
        "port": check_port,
        "server": check_server,
    }
    for name, check in checks.items():
        try:
            yield from check(config)
        except OSError as exc:
            where = f"{exc.filename}: " if exc.filename else ""
            yield failure(name, f"cannot be checked: {where}{exc.strerror or exc}")


def _check_configuration(config: ServerConfig) -> Iterator[Finding]:
    source = str(config.file) if config.file else "no file, defaults"
    yield ok("configuration", f"{source}; domain {config.server.domain}, listening on {config.server.bind}")
    for text in config.warnings:
        yield warning("configuration", text)


def _check_seed(config: ServerConfig) -> Iterator[Finding]:
    try:
        keys = read_federation_keys(config)
    except ProvisionError as exc:
        yield failure("federation-seed", str(exc))
    else:
        yield ok("federation-seed", f"the server's public key is {keys.public.hex()}")
