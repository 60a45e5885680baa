"""The package files of the seven members agree with each other, the umbrella and the sources."""

import importlib
import importlib.metadata
import re
import sys
from itertools import chain

import pytest

from project.project_files import (
    MEMBERS,
    ROOT,
    distribution_of,
    imports_of,
    package_of,
    pyproject,
    sources_of,
)

UMBRELLA = pyproject()["project"]
SIBLINGS = {distribution_of(member) for member in MEMBERS}


def name_of(requirement: str) -> str:
    """Name of a distribution in its one normal form (PEP 503)."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def requirements_of(member: str) -> list[str]:
    requirements: list[str] = pyproject(member)["project"]["dependencies"]
    return requirements


def third_party_of(member: str) -> set[str]:
    return {requirement for requirement in requirements_of(member) if name_of(requirement) not in SIBLINGS}


def optional_of(member: str) -> set[str]:
    """What extras bring; such an import stands where its absence is caught."""
    extras: dict[str, list[str]] = pyproject(member)["project"].get("optional-dependencies", {})
    return {name_of(requirement) for requirements in extras.values() for requirement in requirements}


def test_every_folder_of_a_member_is_known() -> None:
    assert {path.parent.name for path in ROOT.glob("commucat_*/pyproject.toml")} == set(MEMBERS)


@pytest.mark.parametrize("member", MEMBERS)
def test_name_version_and_terms_are_those_of_the_umbrella(member: str) -> None:
    project = pyproject(member)["project"]
    assert project["name"] == distribution_of(member)
    for key in ("version", "license", "requires-python"):
        assert project[key] == UMBRELLA[key]
    assert pyproject(member)["build-system"] == pyproject()["build-system"]


@pytest.mark.parametrize("member", MEMBERS)
def test_third_party_needs_are_what_the_sources_import(member: str) -> None:
    providers = importlib.metadata.packages_distributions()
    imported = {one.top for source in sources_of(member) for one in imports_of(source)}
    foreign = imported - set(sys.stdlib_module_names) - set(MEMBERS)
    optional = optional_of(member)
    # Some share a namespace, so what is imported may come from several.
    brings = {top: {name_of(each) for each in providers.get(top, [top])} for top in foreign}
    # Every extra brings something that is imported, and only that may be missing from the others.
    assert optional <= set().union(*brings.values())
    foreign = {top for top in foreign if not brings[top] & optional}
    unknown = {top for top in foreign if top not in providers}
    assert unknown == set()
    needed = {name_of(providers[top][0]) for top in foreign}
    assert needed == {name_of(requirement) for requirement in third_party_of(member)}


@pytest.mark.parametrize("member", MEMBERS)
def test_declared_siblings_cover_the_imported_ones(member: str) -> None:
    imported = {one.top for source in sources_of(member) for one in imports_of(source)} & set(MEMBERS)
    declared = {name_of(requirement) for requirement in requirements_of(member)} & SIBLINGS
    assert {distribution_of(top) for top in imported - {member}} <= declared
    # By plain name: a path would be the builder's, and no index has them.
    assert declared <= set(requirements_of(member))


def test_the_umbrella_needs_what_its_members_need() -> None:
    needed = set().union(*(third_party_of(member) for member in MEMBERS))
    assert needed == set(UMBRELLA["dependencies"])


def test_the_umbrella_has_the_extras_of_its_members() -> None:
    for member in MEMBERS:
        for name, requirements in pyproject(member)["project"].get("optional-dependencies", {}).items():
            assert UMBRELLA["optional-dependencies"][name] == requirements


def test_scripts_of_the_umbrella_are_those_of_the_members() -> None:
    scripts: dict[str, str] = {}
    for member in MEMBERS:
        scripts |= pyproject(member)["project"].get("scripts", {})
    assert scripts == UMBRELLA["scripts"]


@pytest.mark.parametrize("target", UMBRELLA["scripts"].values())
def test_every_script_has_its_function(target: str) -> None:
    module, function = target.split(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("member", MEMBERS)
def test_the_installed_package_is_the_one_of_this_checkout(member: str) -> None:
    # None means an empty namespace package: the outer folder won against the real one.
    file = importlib.import_module(member).__file__
    assert file is not None
    assert package_of(member) / "__init__.py" == type(ROOT)(file).resolve()


@pytest.mark.parametrize("member", MEMBERS)
def test_packages_are_typed_and_described(member: str) -> None:
    assert (package_of(member) / "py.typed").is_file()
    readme = ROOT / member / pyproject(member)["project"]["readme"]
    assert readme.read_text().startswith(f"# {distribution_of(member)}\n")
    assert not (ROOT / member / "__init__.py").exists()
    assert pyproject(member)["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [f"src/{member}"]


def test_the_umbrella_names_all_seven_everywhere() -> None:
    tools = pyproject()["tool"]
    assert set(tools["uv"]["sources"]) == SIBLINGS
    assert set(pyproject()["dependency-groups"]["members"]) == SIBLINGS
    assert set(tools["mypy"]["packages"]) == set(MEMBERS)
    folders = {f"{member}/src/{member}" for member in MEMBERS}
    assert set(tools["hatch"]["build"]["targets"]["wheel"]["packages"]) == folders
    assert set(tools["mypy"]["mypy_path"].split(":")) == {
        f"$MYPY_CONFIG_FILE_DIR/{member}/src" for member in MEMBERS
    }


@pytest.mark.parametrize("member", MEMBERS)
def test_uv_finds_declared_siblings_in_the_workspace(member: str) -> None:
    sources = pyproject(member).get("tool", {}).get("uv", {}).get("sources", {})
    declared = {name_of(requirement) for requirement in requirements_of(member)} & SIBLINGS
    assert sources == {sibling: {"workspace": True} for sibling in declared}


def test_both_lists_of_development_tools_are_equal() -> None:
    assert UMBRELLA["optional-dependencies"]["dev"] == pyproject()["dependency-groups"]["test"]


def test_constraints_pin_every_need_and_carry_no_address() -> None:
    lines = (ROOT / "constraints.txt").read_text().split("\n")
    pins = [line for line in lines if line.strip() and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
    needs = [*UMBRELLA["dependencies"], *chain(*UMBRELLA["optional-dependencies"].values())]
    assert {name_of(need) for need in needs} <= {name_of(pin) for pin in pins}
