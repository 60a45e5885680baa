"""What the project consists of, read from its files."""

import ast
import os
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

ROOT = Path(__file__).resolve().parents[2]
MEMBERS = (
    "commucat_cli",
    "commucat_crypto",
    "commucat_ledger",
    "commucat_media",
    "commucat_proto",
    "commucat_server",
    "commucat_storage",
)


def pyproject(member: str = ".") -> dict[str, Any]:
    return tomllib.loads((ROOT / member / "pyproject.toml").read_text())


def distribution_of(member: str) -> str:
    return member.replace("_", "-")


def package_of(member: str) -> Path:
    return ROOT / member / "src" / member


def sources_of(member: str) -> list[Path]:
    return sorted(package_of(member).rglob("*.py"))


def module_of(source: Path) -> str:
    """Dotted name of a source file below some ``src``."""
    parts = source.with_suffix("").parts
    parts = parts[len(parts) - parts[::-1].index("src") :]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@attrs.frozen
class Import:
    """One imported dotted name (absolute), and where it is written."""

    name: str
    where: str

    @property
    def top(self) -> str:
        return self.name.split(".")[0]


def imports_in(text: str, where: str = "<text>", package: str = "") -> Iterator[Import]:
    """Every import of a module, those inside functions and type-checking blocks too.

    ``from a import b`` gives ``a.b``: ``b`` may be a module. ``package`` resolves relative imports.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, f"{where}:{node.lineno}") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                above = parents[: len(parents) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield from (Import(f"{base}.{alias.name}", f"{where}:{node.lineno}") for alias in node.names)


def imports_of(source: Path) -> list[Import]:
    module = module_of(source)
    package = module if source.name == "__init__.py" else module.rpartition(".")[0]
    return list(imports_in(source.read_text(), str(source.relative_to(ROOT)), package))


def project_files() -> list[Path]:
    """The files that belong to the project: what git tracks, or, outside git, what is not made by tools."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
        tracked = [ROOT / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
        return [path for path in tracked if path.is_file()]
    made = {"__pycache__", "build", "dist", "commucat-data"}
    found: list[Path] = []
    for directory, names, files in os.walk(ROOT):
        names[:] = [name for name in names if name not in made and not name.startswith(".")]
        found += [Path(directory) / name for name in files]
    return found
