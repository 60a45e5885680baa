"""Every package builds into a wheel that works beside its declared siblings and no others.

Nothing is fetched: the build uses the tools of this environment, the installation the wheels just built.
"""

import email.parser
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from pathlib import Path

import pytest

from project.project_files import MEMBERS, ROOT, distribution_of, package_of, pyproject

# Runs isolated (-I: no working directory, no PYTHONPATH) and without site (-S: no .pth files, so none of
# the editable packages); third-party packages are seen, because their folder is added by hand.
IMPORT_ALL = """
import importlib
import importlib.util
import pkgutil
import sys

target, third_party, member, *absent = sys.argv[1:]
sys.path[:0] = [target]
sys.path.append(third_party)
package = importlib.import_module(member)
assert package.__file__.startswith(target), package.__file__
for found in pkgutil.walk_packages(package.__path__, member + "."):
    if not found.name.endswith(".__main__"):
        importlib.import_module(found.name)
assert not [name for name in absent if importlib.util.find_spec(name)]
"""


def siblings_of(member: str) -> set[str]:
    declared = set(pyproject(member)["project"]["dependencies"])
    return {other for other in MEMBERS if distribution_of(other) in declared}


def run(*command: str | Path) -> None:
    offline = {**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, cwd=ROOT, env=offline, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def for_every_member(action: Callable[[str], Path]) -> dict[str, Path]:
    # Two at a time: most of it is waiting for small processes.
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(MEMBERS, pool.map(action, MEMBERS), strict=True))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    # Made here, not in the threads: the factory is not safe to share.
    folder = tmp_path_factory.mktemp("wheels")

    def build(member: str) -> Path:
        target = folder / member
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", target, ROOT / member)
        [wheel] = target.glob("*.whl")
        return wheel

    return for_every_member(build)


@pytest.fixture(scope="module")
def installed(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("installed")

    def install(member: str) -> Path:
        target = folder / member
        chosen = [wheels[name] for name in sorted({member} | siblings_of(member))]
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile")
        run(*pip, "--target", target, *chosen)
        return target

    return for_every_member(install)


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata_of(wheel: Path) -> Message:
    [name] = [name for name in names_in(wheel) if name.endswith(".dist-info/METADATA")]
    with zipfile.ZipFile(wheel) as archive:
        return email.parser.BytesParser().parsebytes(archive.read(name))


@pytest.mark.parametrize("member", MEMBERS)
def test_every_module_imports_beside_the_declared_siblings_only(
    member: str, installed: dict[str, Path]
) -> None:
    absent = set(MEMBERS) - siblings_of(member) - {member}
    third_party = sysconfig.get_path("purelib")
    run(sys.executable, "-I", "-S", "-c", IMPORT_ALL, installed[member], third_party, member, *sorted(absent))


def test_each_installation_has_nothing_but_the_chosen_packages(installed: dict[str, Path]) -> None:
    for member, target in installed.items():
        found = {path.name for path in target.iterdir() if path.name in MEMBERS}
        assert found == {member} | siblings_of(member)


def files_of(folder: Path, root: Path) -> Iterable[str]:
    return (
        path.relative_to(root).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )


@pytest.mark.parametrize("member", MEMBERS)
def test_a_wheel_holds_the_whole_package_and_nothing_else(member: str, wheels: dict[str, Path]) -> None:
    names = {name for name in names_in(wheels[member]) if ".dist-info/" not in name}
    assert names == set(files_of(package_of(member), package_of(member).parent))
    assert f"{member}/py.typed" in names


def test_migrations_are_in_the_wheel_of_the_storage(wheels: dict[str, Path]) -> None:
    names = {name for name in names_in(wheels["commucat_storage"]) if name.endswith(".sql")}
    assert names
    assert names == {
        path.relative_to(package_of("commucat_storage").parent).as_posix()
        for path in package_of("commucat_storage").rglob("*.sql")
    }


@pytest.mark.parametrize("member", MEMBERS)
def test_a_wheel_needs_its_siblings_by_plain_name(member: str, wheels: dict[str, Path]) -> None:
    needs = metadata_of(wheels[member]).get_all("Requires-Dist") or []
    # No "name @ address": a wheel must not carry the path of the machine that built it.
    assert [need for need in needs if "@" in need or "/" in need] == []
    assert {need for need in needs if need.startswith("commucat")} == {
        distribution_of(sibling) for sibling in siblings_of(member)
    }


@pytest.mark.parametrize("member", MEMBERS)
def test_the_readme_tells_which_siblings_to_install_along(member: str) -> None:
    # They are on no index: installing a member alone by its path cannot work, and people must be told how.
    text = (ROOT / member / "README.md").read_text()
    [command] = re.findall(r"pip install ((?:\./commucat_\w+[\s\\]*)+)", text)
    assert set(re.findall(r"\./\w+", command)) == {f"./{name}" for name in siblings_of(member) | {member}}
