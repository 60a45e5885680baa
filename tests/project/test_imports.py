"""Who may import whom, read from the sources themselves."""

import ast
import subprocess
import sys

import pytest

from commucat_cli.commands.places import PLACES
from project.project_files import MEMBERS, Import, imports_in, imports_of, module_of, sources_of

ALL_BUT_CLI = set(MEMBERS) - {"commucat_cli"}
MAY_IMPORT: dict[str, set[str]] = {
    "commucat_crypto": set(),
    "commucat_ledger": set(),
    "commucat_media": set(),
    "commucat_storage": set(),
    "commucat_proto": {"commucat_crypto"},
    "commucat_server": ALL_BUT_CLI - {"commucat_server"},
    "commucat_cli": ALL_BUT_CLI,
}
# The commands share the configuration and the composition of the server, never its insides.
SERVER_FOR_CLI = (
    "commucat_server.app",
    "commucat_server.config",
    "commucat_server.provision",
    # What operators share with it: the rules of handles and codes, and how it opens its certificate.
    "commucat_server.identity.admissions",
    "commucat_server.identity.pairing_codes",
    "commucat_server.identity.tokens",
    "commucat_server.identity.admin_tokens",
    # What operators do to the devices in the store, as the server does it, and how the ledger learns of it.
    "commucat_server.identity.certificates",
    "commucat_server.identity.devices",
    "commucat_server.identity.pairing",
    "commucat_server.ops.audit",
    "commucat_server.listener.errors",
    # What operators see of other servers, as the server sees it, and how they are asked who they are.
    "commucat_server.federation.discovery",
    "commucat_server.federation.figures",
    "commucat_server.listener.tls",
)
# Commands are imported when they are used.
PLACES_OF_COMMANDS = "commucat_cli/src/commucat_cli/commands/places.py:"
EVENT_LOOPS = {"trio", "trio_asyncio", "asyncio", "anyio", "sniffio"}
WITHOUT_EVENT_LOOP = ("commucat_crypto", "commucat_proto", "commucat_media", "commucat_ledger")
# The drivers of packages whose core has none.
DRIVERS = {"commucat_ledger.ledger", "commucat_media.threads"}
# These change how asyncio works for the whole process; nobody imports them without need.
ASYNCIO_LIBRARIES = {"asyncio", "asyncpg", "redis", "trio_asyncio"}
ON_ASYNCIO = ("commucat_storage.postgres", "commucat_storage.redis", "commucat_storage.asyncio_loop")


def imports_by_member(member: str) -> list[Import]:
    return [found for source in sources_of(member) for found in imports_of(source)]


def offending(found: list[Import]) -> list[str]:
    return [f"{one.where} imports {one.name}" for one in found]


def test_the_table_names_every_package() -> None:
    assert MAY_IMPORT.keys() == set(MEMBERS)


@pytest.mark.parametrize("member", MEMBERS)
def test_packages_import_only_the_siblings_they_may(member: str) -> None:
    allowed = MAY_IMPORT[member] | {member}
    found = [one for one in imports_by_member(member) if one.top.startswith("commucat")]
    assert offending([one for one in found if one.top not in allowed]) == []


def test_the_command_line_uses_only_configuration_and_wiring_of_the_server() -> None:
    found = [one for one in imports_by_member("commucat_cli") if one.top == "commucat_server"]
    allowed = [
        one for one in found if f"{one.name}.".startswith(tuple(f"{name}." for name in SERVER_FOR_CLI))
    ]
    assert offending([one for one in found if one not in allowed]) == []


@pytest.mark.parametrize("member", WITHOUT_EVENT_LOOP)
def test_cores_know_no_event_loop(member: str) -> None:
    sources = [source for source in sources_of(member) if module_of(source) not in DRIVERS]
    found = [one for source in sources for one in imports_of(source)]
    assert offending([one for one in found if one.top in EVENT_LOOPS]) == []


@pytest.mark.parametrize("member", WITHOUT_EVENT_LOOP)
def test_cores_have_no_coroutines(member: str) -> None:
    waiting = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
    assert [
        f"{module_of(source)}:{node.lineno}"
        for source in sources_of(member)
        if module_of(source) not in DRIVERS
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, waiting)
    ] == []


@pytest.mark.parametrize("member", MEMBERS)
def test_only_the_network_backends_import_asyncio_and_its_libraries(member: str) -> None:
    found = [
        one
        for source in sources_of(member)
        if not module_of(source).startswith(ON_ASYNCIO)
        for one in imports_of(source)
    ]
    assert offending([one for one in found if one.top in ASYNCIO_LIBRARIES]) == []


def test_neither_network_backend_needs_the_libraries_of_the_other() -> None:
    wanted = {"commucat_storage.postgres": "redis", "commucat_storage.redis": "asyncpg"}
    found = [
        one
        for source in sources_of("commucat_storage")
        for backend, foreign in wanted.items()
        if module_of(source).startswith(backend)
        for one in imports_of(source)
        if one.top == foreign or one.name.startswith(tuple(wanted.keys() - {backend}))
    ]
    assert offending(found) == []


def test_the_embedded_profile_imports_none_of_them() -> None:
    program = (
        "import sys, pathlib, tempfile, trio\n"
        "import commucat_server.main, commucat_cli.main\n"
        "from commucat_cli.commands.places import PLACES\n"
        "[place.load() for place in PLACES.values()]\n"
        "from commucat_server.config import load_config\n"
        "from commucat_server.provision import migrate_store, open_shared, open_store\n"
        "async def use(config):\n"
        "    async with open_store(config) as storage, open_shared(config, node='n', clock=float):\n"
        "        await storage.check()\n"
        "with tempfile.TemporaryDirectory() as name:\n"
        "    config = load_config(config_path=None, data_dir=pathlib.Path(name), bind=None, environ={}, "
        "cwd=pathlib.Path(name))\n"
        "    migrate_store(config)\n"
        "    trio.run(use, config)\n"
        "print([name for name in ('asyncpg', 'redis', 'trio_asyncio') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("member", MEMBERS)
def test_no_import_hides_in_a_string(member: str) -> None:
    hidden = [
        one
        for one in imports_by_member(member)
        if one.name in ("importlib.import_module", "importlib.__import__", "runpy.run_module")
        and not one.where.startswith(PLACES_OF_COMMANDS)
    ]
    assert offending(hidden) == []


def test_the_one_module_that_imports_by_name_names_commands_only() -> None:
    assert {place.module.partition(".")[0] for place in PLACES.values()} == {"commucat_cli"}


def test_the_named_drivers_exist() -> None:
    modules = {module_of(source) for member in MEMBERS for source in sources_of(member)}
    assert modules >= DRIVERS


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import a.b, c", ["a.b", "c"]),
        ("from a import b", ["a.b"]),
        ("from . import b", ["pack.age.b"]),
        ("from .m import b", ["pack.age.m.b"]),
        ("from ..m import b", ["pack.m.b"]),
        ("def f():\n    import trio", ["trio"]),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import trio",
            ["typing.TYPE_CHECKING", "trio"],
        ),
    ],
)
def test_the_reader_sees_imports_wherever_they_stand(text: str, names: list[str]) -> None:
    assert sorted(one.name for one in imports_in(text, package="pack.age")) == sorted(names)
