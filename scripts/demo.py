"""A conversation between real processes: live, then across a killed server.

    python scripts/demo.py

Starts commucat-server in a temporary directory and speaks to it with commucat-cli only. Exits with
0 only if everything happened as it is told.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

PROGRAMS = Path(sys.executable).parent
PATIENCE = 120.0
TIME_LIMIT = 300
"""Seconds for everything, on a machine with other things to do; by itself it takes a dozen."""
LIVE = ["Are you there, bob?", "The heron stands in the shallows.", "Grüße vom See: 🐟"]
AWAY = [f"While you were away, note {number}: the herring run began." for number in range(1, 11)]


class DemoError(Exception):
    """Something did not happen as it should."""


def main() -> int:
    """Run the demonstration; returns the exit status."""
    # Both as exceptions, so that the processes are ended then, too.
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGALRM, _too_slow)
    signal.alarm(TIME_LIMIT)
    with tempfile.TemporaryDirectory(prefix="commucat-demo-") as name:
        folder = Path(name)
        try:
            tell_the_story(folder)
        except (DemoError, OSError, subprocess.TimeoutExpired) as exc:
            print(f"the demonstration failed: {exc}", file=sys.stderr)
            for log in sorted(folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    return 0


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(143)


def _too_slow(_number: int, _frame: FrameType | None) -> NoReturn:
    raise DemoError(f"it takes longer than {TIME_LIMIT} s")


def tell_the_story(folder: Path) -> None:
    """The whole demonstration; raises at the first thing that is not as told."""
    data = folder / "data"
    with ExitStack() as first_life:
        server, url = first_life.enter_context(running_server(folder, "127.0.0.1:0"))
        print(f"1. A server runs at {url}, with nothing configured.")

        certificate = data / "tls" / "cert.pem"
        bob = log_in(folder, "bob", url, certificate)
        log_in(folder, "alice", url, certificate)
        print("2. alice and bob log in. Their keys are made on their devices and stay there.")

        talk_live(folder, bob)
        print(f"3. bob listens, alice sends: {len(LIVE)} messages arrive live, the first of them:")
        print(f"      alice: {LIVE[0]}")

        cli(
            folder,
            "send",
            "--profile",
            "alice",
            "--to",
            bob,
            "--stdin",
            stdin="".join(f"{t}\n" for t in AWAY),
        )
        print(f"4. bob is away. alice sends {len(AWAY)} more; the server acknowledges each.")

        server.send_signal(signal.SIGKILL)
        server.wait(PATIENCE)
        print("5. The server is killed (SIGKILL): no goodbye, no time to save anything.")

        check_waiting(data, folder / "copy")
        searched = look_for_plaintext(data, bob)
        print(
            f"6. Its files ({searched} bytes) hold the {len(AWAY)} messages for bob, but none of their words."
        )

    with running_server(folder, url.removeprefix("https://")):
        print("7. The server starts again on the same data.")
        check(AWAY, listen_for(folder, len(AWAY)))
        print(f"8. bob listens, and gets all {len(AWAY)}, once each and in order. The last one:")
        print(f"      alice: {AWAY[-1]}")
    print("All as promised: an acknowledged message is never lost, and the server cannot read it.")


def talk_live(folder: Path, bob: str) -> None:
    """The first message shows that bob is connected; those after it meet him listening."""
    with listener(folder, len(LIVE)) as listening:
        got = []
        for text in LIVE:
            cli(folder, "send", "--profile", "alice", "--to", bob, text)
            got.append(next_text(listening))
        check(LIVE, got)
        if listening.wait(PATIENCE) != 0:
            raise DemoError("bob's listen did not end well")


def check_waiting(data: Path, copy: Path) -> None:
    """The messages are in the store; looked up in a copy, so that the server finds its files as they were."""
    shutil.copytree(data, copy)
    with closing(sqlite3.connect(copy / "commucat.db")) as store:
        [waiting] = store.execute("SELECT count(*) FROM relay_queue").fetchone()
    if waiting != len(AWAY):
        raise DemoError(f"{waiting} messages wait in the store, not {len(AWAY)}")


def look_for_plaintext(data: Path, bob: str) -> int:
    """Search every file of the server; returns how many bytes were searched."""
    content = b"\0".join(path.read_bytes() for path in sorted(data.rglob("*")) if path.is_file())
    # The search must be able to find something: bob's device id is no secret.
    if bob.encode() not in content:
        raise DemoError("bob's device id is not in the server's files: the search looks in the wrong place")
    for text in (*LIVE, *AWAY, "herring"):
        if text.encode() in content:
            raise DemoError(f"the server's files contain the plaintext {text!r}")
    return len(content)


@contextmanager
def running_server(folder: Path, bind: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A server process and its address; ended in any case."""
    command: list[str | Path] = [PROGRAMS / "commucat-server", "--data-dir", folder / "data", "--bind", bind]
    with ending(folder, "server", command) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise DemoError("the server did not start")
        yield process, line.split()[-1]


@contextmanager
def listener(folder: Path, count: int) -> Iterator["subprocess.Popen[str]"]:
    """bob's ``commucat-cli listen``."""
    options = ["--count", str(count), "--timeout", str(PATIENCE), "--json"]
    command: list[str | Path] = [PROGRAMS / "commucat-cli", "listen", "--profile", "bob", *options]
    with ending(folder, "listen", command) as process:
        yield process


def listen_for(folder: Path, count: int) -> list[str]:
    """The texts of the next messages to bob."""
    with listener(folder, count) as listening:
        texts = [next_text(listening) for _ in range(count)]
        if listening.wait(PATIENCE) != 0:
            raise DemoError("bob's listen did not end well")
    return texts


def next_text(listening: "subprocess.Popen[str]") -> str:
    """The text of the next message; ``listen`` itself gives up when none comes."""
    assert listening.stdout is not None
    line = listening.stdout.readline()
    if not line:
        raise DemoError("bob's listen ended before all messages came")
    return str(json.loads(line)["text"])


def log_in(folder: Path, name: str, url: str, certificate: Path) -> str:
    """Make a profile; returns the device id."""
    output = cli(
        folder, "login", "--server", url, "--handle", name, "--profile", name, "--tls-ca", str(certificate)
    )
    printed = dict(line.partition("=")[::2] for line in output.splitlines())
    return printed["device_id"]


def cli(folder: Path, *arguments: str, stdin: str | None = None) -> str:
    """Run a ``commucat-cli`` command to its end; returns what it printed."""
    done = subprocess.run(  # noqa: S603 - our own programs
        [PROGRAMS / "commucat-cli", *arguments],
        cwd=folder,
        env=environment(),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode != 0:
        raise DemoError(f"commucat-cli {arguments[0]} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def ending(folder: Path, name: str, command: Sequence[str | Path]) -> Iterator["subprocess.Popen[str]"]:
    """A process with its standard error in a log file; it does not outlive the block."""
    with (folder / f"{name}.log").open("ab") as errors:
        process = subprocess.Popen(  # noqa: S603 - our own programs
            command,
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def environment() -> dict[str, str]:
    """Without settings of somebody's own server or profile."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COMMUCAT_")}


def check(expected: Sequence[str], got: Sequence[str]) -> None:
    """Compare what was sent with what came."""
    if list(expected) != list(got):
        raise DemoError(f"bob got {list(got)}, not {list(expected)}")


if __name__ == "__main__":
    raise SystemExit(main())
