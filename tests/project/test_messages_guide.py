"""docs/messages.md has every message at level warning and above, and every start-up error, and no others."""

import ast
import re
from collections.abc import Iterator

import attrs
import pytest

from commucat_storage.problems import Problem, SchemaProblems
from project.project_files import ROOT, package_of, sources_of

GUIDE = ROOT / "docs" / "messages.md"
START = "It does not start"
LEVELS = {"warning": "warning", "error": "error", "critical": "critical", "exception": "error"}
# Calls whose words are made elsewhere, and where: calls of these classes, strings of these functions.
SPOKEN_FOR = {
    "self.event": "_Report",
    "self._begun": "Trouble",
    "self._over": "Trouble",
    "warning": "warnings",
}
WARNINGS = {
    "config/load.py": ("load_config", "_clear_frames_warning", "_apply_rust_log"),
    "config/sources.py": ("settings_from_variables",),
    "identity/admin_tokens.py": ("warnings",),
    "provision/data_dir.py": ("_exposure",),
    "provision/open_files.py": ("shortage",),
    "provision/tls_files.py": ("_checked",),
}
# Modules of what is opened at the start, and the errors that end it.
OPENING = {
    "commucat_server": (
        "listener/activation.py",
        "listener/tls.py",
        "nat/udp.py",
        "provision/data_dir.py",
        "provision/federation_seed.py",
        "provision/files.py",
        "provision/lock.py",
        "provision/noise_keys.py",
        "provision/shared.py",
        "provision/store.py",
        "provision/tls_files.py",
        "security/secret_box.py",
    ),
    "commucat_storage": ("sqlite/connection.py", "sqlite/migrate.py", "store_mark.py"),
    "commucat_ledger": ("ending.py", "file.py", "ledger.py"),
}
ERRORS = {
    "ActivationError",
    "DataDirBusyError",
    "LedgerTargetError",
    "ProvisionError",
    "SchemaError",
    "SecretBoxError",
    "StorageError",
    "StorageUnavailableError",
    "StunBindError",
    "TlsConfigError",
}


@attrs.frozen(order=True)
class Told:
    text: str
    level: str


def template(node: ast.expr, constants: dict[str, str]) -> str | None:
    """A string as the guide has it, … for what is put in; None of what is no string."""
    if isinstance(node, ast.Constant):
        return re.sub("%[sd]", "…", node.value) if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return re.sub("…+", "…", "".join(template(part, constants) or "…" for part in node.values))
    if isinstance(node, ast.FormattedValue):
        return constants.get(ast.unparse(node.value), "…")
    return None


def constants_of(tree: ast.Module) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in tree.body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target  # type: ignore[union-attr]  # one of the two
            found[ast.unparse(target)] = value.value
    return found


def calls_in(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            yield ast.unparse(node.func), node


def trees(member: str) -> Iterator[tuple[str, ast.Module]]:
    for source in sources_of(member):
        yield str(source.relative_to(package_of(member))), ast.parse(source.read_text(encoding="utf-8"))


def logged(tree: ast.Module) -> Iterator[Told]:
    constants = constants_of(tree)
    for function, call in calls_in(tree):
        logger, _, method = function.rpartition(".")
        first = template(call.args[0], constants)
        if logger in ("log", "_log") and method in LEVELS:
            if first is None:
                assert ast.unparse(call.args[0]) in SPOKEN_FOR, ast.unparse(call)
            else:
                yield Told(first, LEVELS[method])
        elif function == "_Report" and first is not None:
            yield Told(first, "warning")
        elif function == "Trouble":
            for argument, level in zip(call.args, ("error", "warning"), strict=True):
                yield Told(template(argument, constants) or "", level)


def strings_of(function: ast.FunctionDef) -> Iterator[str]:
    """The sentences that a function makes, without those of its errors and its docstring."""
    skipped = {
        id(part) for node in ast.walk(function) if isinstance(node, ast.Raise) for part in ast.walk(node)
    }
    skipped |= {
        id(part) for node in ast.walk(function) if isinstance(node, ast.JoinedStr) for part in node.values
    }
    skipped |= {id(node.value) for node in function.body if isinstance(node, ast.Expr)}
    skipped |= {id(node.value) for node in ast.walk(function) if isinstance(node, ast.AugAssign)}
    parts = (
        [node.args[0]]
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".append")
        else node.elts
        if isinstance(node, ast.List | ast.Tuple)
        else [node.value]
        if isinstance(node, ast.Return)
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "line")
        else []
        for node in ast.walk(function)
        if id(node) not in skipped
    )
    for part in (each for some in parts for each in some if each is not None):
        text = template(part, {})
        if text is not None and " " in text and id(part) not in skipped:
            yield text


def functions_of(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def all_logged() -> set[Told]:
    found: set[Told] = set()
    for member in ("commucat_server", "commucat_storage", "commucat_ledger"):
        for path, tree in trees(member):
            found.update(logged(tree))
            if member == "commucat_server":
                functions = functions_of(tree)
                for name in WARNINGS.get(path, ()):
                    found.update(Told(text, "warning") for text in strings_of(functions[name]))
    return found


def all_start_up_errors() -> set[str]:
    found: set[str] = set()
    for member, paths in OPENING.items():
        by_path = dict(trees(member))
        for path in paths:
            tree = by_path[path]
            constants = constants_of(tree)
            for function, call in calls_in(tree):
                text = template(call.args[0], constants)
                if function in ERRORS and text is not None:
                    found.add(text)
            for name in ("_damaged",):
                if name in functions_of(tree):
                    found.update(strings_of(functions_of(tree)[name]))
    problems = [value for value in vars(SchemaProblems).values() if isinstance(value, Problem)]
    found.update(f"…: {each.text.replace('{detail}', '…')}; {each.remedy}" for each in problems)
    [start] = [tree for path, tree in trees("commucat_server") if path == "start.py"]
    found.update(strings_of(functions_of(start)["_explain"]))
    said = [template(call.args[0], {}) for function, call in calls_in(start) if function == "_failed"]
    found.update(text for text in said if text is not None)
    return found


def sections() -> dict[str, list[list[str]]]:
    """The rows of the guide's tables, without their heads, by heading."""
    found = {}
    for section in GUIDE.read_text(encoding="utf-8").split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        rows = [line.strip().strip("|").split(" | ") for line in text.splitlines() if line.startswith("|")]
        found[heading] = [[cell.strip() for cell in row] for row in rows[2:]]
    return found


def test_every_log_line_is_in_the_guide_with_its_level_and_nothing_else() -> None:
    rows = [row for heading, rows in sections().items() if heading != START for row in rows]
    listed = [Told(row[0].strip("`"), row[1]) for row in rows]

    assert sorted(listed) == sorted(all_logged())


def test_every_start_up_error_is_in_the_guide_and_nothing_else() -> None:
    assert sorted(row[0].strip("`") for row in sections()[START]) == sorted(all_start_up_errors())


@pytest.mark.parametrize("heading", sorted(sections()))
def test_every_message_has_its_remedy(heading: str) -> None:
    width = 3 if heading == START else 4
    assert [row for row in sections()[heading] if len(row) != width or not row[-1]] == []


def test_the_collector_sees_what_is_written_in_other_ways() -> None:
    source = 'log.warning("a %s", x)\n_log.exception(f"b {c} d")\nlog.info("no")\nTrouble("on", "off")\n'
    assert sorted(logged(ast.parse(source))) == [
        Told("a …", "warning"),
        Told("b … d", "error"),
        Told("off", "warning"),
        Told("on", "error"),
    ]
