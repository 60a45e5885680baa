"""Whatever a file, ``.env`` or the environment holds: a configuration or a ConfigError, nothing else."""

import contextlib
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from commucat_server.config import ConfigError
from commucat_server.config.keys import KEYS, OTHER_VARIABLES, VARIABLES
from server.config_builders import load_text

SCALARS = st.one_of(
    st.sampled_from(["true", "false", "inf", "nan", "-0", "1979-05-27T07:32:00Z", "[]", "{}", "{a=1}", '""']),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=20).map(lambda text: '"' + text.replace("\\", "").replace('"', "") + '"'),
    st.sampled_from(['"[::1]:0"', '"' + "0" * 64 + '"', '["XK"]', '"file"', '"debug"']),
)
NAMES = st.one_of(
    st.sampled_from(sorted(KEYS)),
    st.sampled_from(["ice.turn.a", "uploads.dir", "server", "server.bind.x", '"".""', "a.b.c.d.e"]),
    st.text(alphabet="abcdef.-_\"'", min_size=1, max_size=12),
)
LINES = st.one_of(
    st.tuples(NAMES, SCALARS).map(" = ".join),
    st.sampled_from(["[server]", "[crypto]", "[[limits]]", "[a.b]", "#", "", "[", '"""', "\\"]),
    st.text(max_size=20),
)
TOML = st.lists(LINES, max_size=6).map("\n".join)
# The environment cannot hold NUL; bytes that are not UTF-8 arrive as lone surrogates.
ENV_TEXT = st.text(st.characters(exclude_characters="\0"), max_size=20)
ENVIRON = st.dictionaries(
    st.one_of(
        st.sampled_from(sorted([*VARIABLES, *OTHER_VARIABLES, "RUST_LOG"])),
        ENV_TEXT.map(lambda text: "COMMUCAT_" + text),
    ),
    st.one_of(ENV_TEXT, SCALARS),
    max_size=3,
)


def outcome(toml: bytes | None, environ: dict[str, str], dotenv: bytes | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if dotenv is not None:
            (folder / ".env").write_bytes(dotenv)
        with contextlib.suppress(ConfigError):
            for line in (config := load_text(folder, toml, environ=environ)).summary():
                assert line.isprintable()
            assert all(warning.isprintable() for warning in config.warnings)


@given(toml=TOML)
def test_toml_like_text(toml: str) -> None:
    outcome(toml.encode("utf-8", "surrogatepass"), {}, None)


@given(toml=st.binary(max_size=200))
def test_any_bytes_as_a_file(toml: bytes) -> None:
    outcome(toml, {}, None)


@given(environ=ENVIRON)
def test_any_environment(environ: dict[str, str]) -> None:
    outcome(None, environ, None)


@given(
    dotenv=st.one_of(
        st.binary(max_size=60), LINES.map(lambda text: ("COMMUCAT_" + text).encode(errors="replace"))
    )
)
def test_any_dotenv(dotenv: bytes) -> None:
    outcome(None, {}, dotenv)
