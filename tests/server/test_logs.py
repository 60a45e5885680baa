"""The log: JSON lines on stderr, without secrets, whatever is logged."""

import datetime
import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commucat_server.config import LogLevel
from commucat_server.ops.logs import configure_logs, redact


@pytest.fixture(autouse=True)
def _own_configuration() -> Iterator[None]:
    handlers = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = handlers
    structlog.reset_defaults()


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_a_line_is_a_json_object_with_utc_time(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogLevel.INFO)
    structlog.get_logger("commucat.listener").info("commucat listening", address="[::1]:8443", port=1)

    [line] = lines_of(capsys)
    moment = datetime.datetime.fromisoformat(line.pop("timestamp"))
    assert moment.utcoffset() == datetime.timedelta(0)
    assert abs(moment - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=1)
    assert line == {
        "event": "commucat listening",
        "level": "info",
        "logger": "commucat.listener",
        "address": "[::1]:8443",
        "port": 1,
    }


@pytest.mark.parametrize("level", list(LogLevel))
def test_only_lines_from_the_level_on(level: LogLevel, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(level)
    log = structlog.get_logger("x")
    names = [each.value for each in LogLevel]
    for name in names:
        getattr(log, name)("event")
    assert [line["level"] for line in lines_of(capsys)] == names[names.index(level.value) :]


def test_configured_twice_lines_come_once_and_with_the_last_level(capsys: pytest.CaptureFixture[str]) -> None:
    early = structlog.get_logger("early")
    configure_logs(LogLevel.ERROR)
    configure_logs(LogLevel.INFO)
    early.info("ours")
    logging.getLogger("h2").warning("theirs")
    assert [line["event"] for line in lines_of(capsys)] == ["ours", "theirs"]


def test_library_lines_look_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogLevel.DEBUG)
    library = logging.getLogger("some.library")
    library.info("chatter")
    library.warning("%d%% of %s", 90, {"a"})
    library.log(35, "in between")
    library.error("100%")

    lines = lines_of(capsys)
    assert [(line["event"], line["level"]) for line in lines] == [
        ("90% of {'a'}", "warning"),
        ("in between", "warning"),
        ("100%", "error"),
    ]
    assert {line["logger"] for line in lines} == {"some.library"}


SECRET_NAMES = [
    "token",
    "session_token",
    "secret",
    "private",
    "private_key",
    "noise-private",
    "privateKey",
    "SECRET_KEY",
    "seed",
    "federation_seed",
    "password",
    "Authorization",
    "zkp",
    "proof",
    "code",
    "enrolment_code",
    "handshake",
    "session",
    "key",
    "payload",
]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_secrets_are_blanked_at_any_depth(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogLevel.INFO)
    log = structlog.get_logger("x")
    log.info("event", **{name: "hidden-value"})
    log.info("event", detail=[{"inner": ({name: "hidden-value"},)}])
    log.bind(**{name: ["hidden-value"]}).info("event")

    assert "hidden-value" not in (shown := capsys.readouterr().err)
    assert shown.count("[redacted]") == 3


@pytest.mark.parametrize(
    "name", ["status_code", "key_id", "noise_key_version", "public_key", "sessions", "encoded", "device"]
)
def test_names_that_only_resemble_secrets_are_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogLevel.INFO)
    structlog.get_logger("x").info("event", **{name: 7})
    [line] = lines_of(capsys)
    assert line[name] == 7


def test_objects_are_shown_without_their_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    @attrs.frozen(kw_only=True)
    class Account:
        name: str
        pin: str = attrs.field(repr=False)

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    configure_logs(LogLevel.INFO)
    structlog.get_logger("x").info(
        "event", account=Account(name="ada", pin="hidden-value"), raw=b"hidden-value", broken=Broken()
    )
    [line] = lines_of(capsys)
    assert "name='ada'" in line["account"]
    assert "hidden-value" not in json.dumps(line)
    assert line["raw"] == "<12 bytes>"
    assert line["broken"] == "<Broken>"


def test_exceptions_are_structured_and_without_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        hidden = "hidden-value"
        raise KeyError(len(hidden))

    configure_logs(LogLevel.INFO)
    log = structlog.get_logger("x")
    try:
        try:
            fail()
        except KeyError as cause:
            raise ExceptionGroup("several", [ValueError("one"), OSError(5, "two")]) from cause
    except ExceptionGroup:
        log.exception("failed")
        logging.getLogger("library").exception("failed too")
    log.error("given", exc_info=ValueError("three"))

    captured = capsys.readouterr().err
    # The source line of `fail` is not part of the structure either.
    assert "hidden-value" not in captured
    first, second, third = (json.loads(line) for line in captured.splitlines())
    assert first["exception"] == second["exception"]
    group, cause = first["exception"]
    assert (group["exc_type"], cause["exc_type"]) == ("ExceptionGroup", "KeyError")
    assert [inner[0]["exc_value"] for inner in group["exceptions"]] == ["one", "[Errno 5] two"]
    assert cause["frames"][-1]["name"] == "fail"
    assert third["exception"][0]["exc_value"] == "three"


@pytest.mark.parametrize("value", [1 << 80, "\udc80", float("nan"), float("inf"), {1: 2}, {"a"}, 3.5, None])
def test_values_that_json_lacks(value: object, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogLevel.INFO)
    structlog.get_logger("x").info("event", value=value)
    [line] = lines_of(capsys)
    assert "value" in line


def test_peers_cannot_break_a_line_or_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    handle = "a\nb\x1b[2J\x9b2J\x7f\u2028\u2029"
    configure_logs(LogLevel.INFO)
    structlog.get_logger("x").info("event", handle=handle)
    text = capsys.readouterr().err
    assert text.removesuffix("\n").isprintable()
    assert json.loads(text)["handle"] == handle


def test_endless_structures_end(capsys: pytest.CaptureFixture[str]) -> None:
    loop: list[Any] = []
    loop.append(loop)
    configure_logs(LogLevel.INFO)
    structlog.get_logger("x").info("event", loop=loop, text="x" * 100_000)
    [line] = lines_of(capsys)
    assert "nested too deep" in json.dumps(line["loop"])
    assert len(line["text"]) < 10_000


@pytest.mark.parametrize("broken", ["closed", "pipe", "none"])
def test_a_log_that_nobody_reads_stops_nothing(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class GoneReader(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    stream: io.StringIO | None = {"closed": io.StringIO(), "pipe": GoneReader(), "none": None}[broken]
    if broken == "closed" and stream is not None:
        stream.close()
    configure_logs(LogLevel.INFO)
    monkeypatch.setattr(sys, "stderr", stream)
    structlog.get_logger("x").error("event")
    logging.getLogger("library").error("event")


JSON_LIKE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner), st.tuples(inner)),
    max_leaves=10,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON_LIKE)
def test_anything_becomes_one_line_of_json(value: object, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogLevel.INFO)
    structlog.get_logger("x").info("event", value=value)
    [line] = lines_of(capsys)
    assert line["event"] == "event"


@given(value=JSON_LIKE, name=st.sampled_from(SECRET_NAMES))
def test_redact_blanks_whatever_a_secret_holds(value: object, name: str) -> None:
    assert redact(None, "info", {name: value}) == {name: "[redacted]"}
