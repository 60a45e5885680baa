"""What the texts of the project promise and must not contain."""

import re
import stat

import pytest

from project.project_files import MEMBERS, ROOT, project_files, pyproject

# Written in pieces, so that this file does not contain what it looks for.
FORBIDDEN = {
    "path of one machine": re.compile(r"(?<![\w.}])/(?:wo" + r"rk|ro" + r"ot|ho" + r"me)/"),
    "host of a package registry": re.compile(
        r"(?:py" + r"pi\.org|python" + r"hosted\.org|npm" + r"js\.(?:org|com)|crates" + r"\.io)",
        re.IGNORECASE,
    ),
    "address of a package index": re.compile(r"(?:extra-)?index" + r"[-_]url", re.IGNORECASE),
}
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
SCRIPTS = set(pyproject()["project"]["scripts"])
# Programs of the system that people have, or that the text around the command asks them to install.
SYSTEM = {"cd", "curl", "cp", "docker", "export", "git", "openssl", "pip", "python", "python3", "sh", "uv"}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_of_the_project_contains(what: str) -> None:
    found: list[str] = []
    for path in project_files():
        text = path.read_bytes().decode(errors="replace")
        found += [
            f"{path.relative_to(ROOT)}:{number}"
            for number, line in enumerate(text.splitlines(), start=1)
            if FORBIDDEN[what].search(line)
        ]
    assert found == []


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("path of one machine", "see /wo" + "rk/here"),
        ("path of one machine", '"/ro' + 'ot/.config"'),
        ("host of a package registry", "https://files.python" + "hosted.org/x"),
        ("address of a package index", "--extra-index" + "-url=x"),
    ],
)
def test_the_forbidden_words_are_recognised(what: str, text: str) -> None:
    assert FORBIDDEN[what].search(text)


def test_ordinary_words_are_not_taken_for_paths() -> None:
    assert not FORBIDDEN["path of one machine"].search(
        "commucat/wo" + "rk/x ./wo" + "rk/ frame" + "work/ and ro" + "ot/x"
    )


def commands_of(text: str) -> list[str]:
    """Command lines of shell blocks and of indented blocks."""
    shells = re.findall(r"^```(?:sh|bash|shell|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:\A|\n)\n((?: {4}.*(?:\n|\Z))+)", plain)
    joined = "\n".join([*shells, *indented]).replace("\\\n", " ")
    lines = (line.strip().removeprefix("$ ") for line in joined.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def missing_from(command: str) -> str | None:
    """What a command names that does not exist, or None."""
    words = command.split("#")[0].split()
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if not words:
        return None
    program, *arguments = words
    program = program.removeprefix(".venv/bin/")
    if program == "make":
        named = [word for word in arguments if re.fullmatch(r"[a-z][a-z-]*", word)]
        return next((name for name in named if name not in TARGETS), None)
    if program in SCRIPTS:
        return None
    if program in SYSTEM:
        files = [word for word in arguments if re.fullmatch(r"(?:\./)?[\w./-]+\.(?:sh|py)", word)]
        return next((name for name in files if not (ROOT / name).is_file()), None)
    return None if (ROOT / program).is_file() else program


def test_every_command_of_the_readme_exists() -> None:
    commands = commands_of(README)
    assert commands
    assert [command for command in commands if missing_from(command)] == []


def test_every_target_and_script_in_running_text_exists() -> None:
    spans = re.findall(r"`([^`\n]+)`", README)
    assert [span for span in spans if span.startswith("make ") and missing_from(span)] == []
    programs = {name for span in spans for name in re.findall(r"\bcommucat-(?:server|cli)\w*\b", span)}
    assert programs <= SCRIPTS


def test_every_file_that_makefile_and_ci_call_exists() -> None:
    texts = MAKEFILE + (ROOT / ".ci" / "run").read_text()
    called = set(re.findall(r"\bscripts/[\w-]+\.(?:sh|py)", texts))
    assert [name for name in called if not (ROOT / name).is_file()] == []
    targets = set(re.findall(r"^make ([a-z-]+)$", texts, re.MULTILINE))
    assert targets <= TARGETS


def test_continuous_integration_can_be_run() -> None:
    assert (ROOT / ".ci" / "run").stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("folder", [".", *MEMBERS])
def test_links_of_a_readme_lead_to_files(folder: str) -> None:
    text = (ROOT / folder / "README.md").read_text()
    local = [target for target in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in target]
    assert [target for target in local if not (ROOT / folder / target).exists()] == []


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("make run", None),
        ("make PYTHON=/usr/bin/python3.12 test", None),
        ("make castle", "castle"),
        ("commucat-cli migrate", None),
        ("commucat-dog bark", "commucat-dog"),
        (".venv/bin/commucat-server --data-dir x", None),
        ("sh scripts/setup.sh", None),
        ("sh scripts/absent.sh", "scripts/absent.sh"),
        ("VENV=x sh scripts/setup.sh  # why", None),
        ("python scripts/absent.py", "scripts/absent.py"),
    ],
)
def test_missing_things_in_commands_are_seen(command: str, missing: str | None) -> None:
    assert missing_from(command) == missing


def test_commands_are_read_from_blocks_only() -> None:
    text = "Text `make a`\n\n    make b\n    # comment\n\n"
    text += "```sh\n$ make c \\\n  d\n```\n\n```python\nmake = 1\n```\n"
    assert [command.split() for command in commands_of(text)] == [["make", "c", "d"], ["make", "b"]]
