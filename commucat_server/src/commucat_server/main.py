"""The command ``commucat-server``: its options. The server is imported once they are understood."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from commucat_server.ops.collector import collector_at_rest
from commucat_server.version import server_version


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server; returns the exit code: 0 after a drained stop, 1 on failure, 2 on wrong usage."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    with collector_at_rest():
        # Here and not above: help and mistakes in the options need nothing of it.
        from commucat_server.start import Options, start
    return start(Options(arguments=given, **vars(options)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="commucat-server",
        description="Routes end-to-end encrypted messages between devices. Without options everything is "
        "generated in ./commucat-data and the server listens on 127.0.0.1:8443.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML configuration file")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="keys, certificate, store and ledger")
    parser.add_argument("--bind", metavar="HOST:PORT", help="address to listen on; port 0 picks a free one")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes behind the address; needs PostgreSQL"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"commucat-server {server_version()}")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
