"""Manual pages and completion are those of the commands there are."""

import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commucat_cli.main import app
from commucat_cli.manual.completion import Shell, script, words_of
from commucat_cli.manual.roff import page, page_name
from commucat_cli.manual.tree import CommandText, tree_of

ROOT = tree_of(app)
COMMANDS = {command.path: command for command in ROOT.walk()}


def test_the_tree_has_every_command_and_nothing_hidden() -> None:
    assert ("queue", "purge") in COMMANDS
    assert ("diagnose",) in COMMANDS
    assert ("doctor",) not in COMMANDS
    purge = COMMANDS["queue", "purge"]
    assert purge.summary == "Delete everything that waits for a device, undelivered"
    assert {name for option in purge.options for name in option.names} >= {"--device", "--yes", "--json"}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_every_command_says_what_it_does_and_each_option_too(command: CommandText) -> None:
    assert command.summary
    assert all(option.text for option in command.options)


WITHOUT_JSON = {
    ("chat",),  # for people alone
    ("completion",),  # prints a script
    ("ledger", "heads"),  # prints nothing but JSON
    ("man",),  # writes files
}


def test_every_command_prints_json_if_asked_to() -> None:
    leaves = {command for command in ROOT.walk() if not command.children}
    without = {
        command.path for command in leaves if not any("--json" in option.names for option in command.options)
    }
    assert without == WITHOUT_JSON


def test_a_page_holds_what_help_shows() -> None:
    text = page(COMMANDS["queue", "show"], "1.2.3")
    assert page_name(COMMANDS["queue", "show"]) == "commucat-cli-queue-show.1"
    assert '.TH "COMMUCAT\\-CLI\\-QUEUE\\-SHOW" "1" "" "CommuCat 1.2.3" "CommuCat"' in text
    assert "\\fB\\-\\-limit\\fR \\fIN\\fR" in text
    assert "Default: 50." in text


def test_text_cannot_be_taken_for_a_request_to_roff() -> None:
    hostile = CommandText(
        path=("x",),
        summary="'so /etc/passwd",
        paragraphs=(".sy rm", "back\\slash"),
        options=(),
        arguments=(),
        children=(),
    )
    lines = page(hostile, "1").splitlines()
    assert "\\&.sy rm" in lines
    assert "back\\eslash" in lines


def test_roff_has_nothing_to_say_against_the_pages(tmp_path: Path) -> None:
    folder = tmp_path / "share" / "man1"
    result = CliRunner().invoke(app, ["man", str(folder)])
    assert result.exit_code == 0
    pages = sorted(folder.iterdir())
    assert result.stdout == f"pages={len(pages)}\n"
    assert len(pages) == len(COMMANDS)
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-z", *map(str, pages)],
        capture_output=True,
        text=True,
        env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in ("file", "file/below"):
        result = CliRunner().invoke(app, ["man", str(tmp_path / folder)])
        assert result.exit_code == 1
        assert f"error: cannot make {tmp_path / folder}" in result.stderr


# -- completion -----------------------------------------------------------------------------------


def complete(*words: str) -> list[str]:
    """What bash offers for the last word."""
    line = " ".join(f"'{word}'" for word in words)
    text = script(ROOT, Shell.BASH)
    text += f"COMP_WORDS=({line})\nCOMP_CWORD={len(words) - 1}\n_commucat_cli\n"
    text += 'printf "%s\\n" "${COMPREPLY[@]}"\n'
    done = subprocess.run(["bash", "--norc", "-euc", text], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_options_and_choices() -> None:
    assert complete("commucat-cli", "que") == ["queue"]
    assert complete("commucat-cli", "queue", "") == ["--help", "purge", "show"]
    assert complete("commucat-cli", "queue", "purge", "--y") == ["--yes"]
    assert complete("commucat-cli", "secrets", "rotate", "no") == ["noise"]
    assert complete("commucat-cli", "completion", "f") == ["fish"]
    # A value that is called like a command leads nowhere.
    assert complete("commucat-cli", "queue", "purge", "--device", "show", "--ye") == ["--yes"]


@pytest.mark.parametrize(("shell", "check"), [("zsh", ["-n"]), ("fish", ["--no-execute"]), ("bash", ["-n"])])
def test_the_scripts_are_well_formed(shell: str, check: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["completion", shell])
    assert result.exit_code == 0
    for command in COMMANDS.values():
        for word in words_of(command):
            assert word.removeprefix("--") in result.stdout or word == "--help"
    file = tmp_path / "script"
    file.write_text(result.stdout)
    done = subprocess.run([shell, *check, str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_other_shells_are_refused() -> None:
    result = CliRunner().invoke(app, ["completion", "powershell"])
    assert result.exit_code == 2
    assert "Invalid value for 'SHELL': 'powershell' is not one of 'bash', 'zsh', 'fish'." in result.stderr
