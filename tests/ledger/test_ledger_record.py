from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_ledger import GENESIS, MAX_LINE_BYTES, LedgerRecord, LedgerRecordError, head_of, line_of
from ledger.ledger_builders import NOON, record


def with_metadata(metadata: Any) -> LedgerRecord:
    return LedgerRecord(digest=bytes(32), metadata=metadata, recorded_at=NOON)


def test_line_is_sorted_json_with_the_head_before_it() -> None:
    made = LedgerRecord(digest=b"\xab" * 32, metadata={"b": 1, "a": [True, None]}, recorded_at=NOON)

    line = line_of(made, b"\x01" * 32, 7)

    assert line == (
        b'{"digest":"' + b"ab" * 32 + b'","metadata":{"a":[true,null],"b":1},'
        b'"prev":"' + b"01" * 32 + b'","recorded_at":"2025-10-01T12:00:00+00:00","seq":7}\n'
    )


def test_head_does_not_depend_on_the_newline() -> None:
    line = line_of(record(), GENESIS, 1)
    assert head_of(line) == head_of(line[:-1])
    assert len(head_of(line)) == 32


@pytest.mark.parametrize(
    ("microsecond", "text"),
    [
        (0, "2025-10-01T12:00:00+00:00"),
        (120_000, "2025-10-01T12:00:00.120+00:00"),
        (1, "2025-10-01T12:00:00.000001+00:00"),
    ],
)
def test_time_has_the_fewest_exact_digits(microsecond: int, text: str) -> None:
    made = LedgerRecord(digest=bytes(32), metadata={}, recorded_at=NOON.replace(microsecond=microsecond))
    assert orjson.loads(line_of(made, GENESIS, 1))["recorded_at"] == text


def test_time_of_another_zone_is_written_in_utc() -> None:
    local = datetime(2025, 10, 1, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    made = LedgerRecord(digest=bytes(32), metadata={}, recorded_at=local)
    assert made.recorded_at == NOON
    assert made.recorded_at.tzinfo is UTC
    assert b"12:00:00+00:00" in line_of(made, GENESIS, 1)


def test_time_without_zone_is_refused() -> None:
    with pytest.raises(LedgerRecordError, match="recorded_at"):
        LedgerRecord(digest=bytes(32), metadata={}, recorded_at=datetime(2025, 1, 1))


def test_time_without_utc_form_is_refused() -> None:
    edge = datetime.max.replace(tzinfo=timezone(-timedelta(hours=2)))
    with pytest.raises(LedgerRecordError, match="recorded_at"):
        LedgerRecord(digest=bytes(32), metadata={}, recorded_at=edge)


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33), "0" * 32, None])
def test_digest_has_32_bytes(digest: Any) -> None:
    with pytest.raises(LedgerRecordError, match="digest"):
        LedgerRecord(digest=digest, metadata={}, recorded_at=NOON)


@pytest.mark.parametrize(
    "metadata",
    [
        {"n": float("nan")},
        {"n": float("inf")},
        {"n": [{"deep": float("-inf")}]},
        {"n": NOON},
        {"n": b"bytes"},
        {"n": {1, 2}},
        {1: "key"},
        {"n": 2**64},
        {"n": -(2**63) - 1},
        {"n": "\ud800"},
        {"\ud800": 1},
        [],
        None,
        "text",
    ],
)
def test_metadata_that_json_cannot_say_exactly_is_refused(metadata: Any) -> None:
    with pytest.raises(LedgerRecordError, match="metadata"):
        with_metadata(metadata)


def test_metadata_nested_too_deep_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(40):
        deep = [deep]
    with pytest.raises(LedgerRecordError, match="deeper"):
        with_metadata({"deep": deep})


def test_metadata_too_long_is_refused_and_the_longest_fits_a_line() -> None:
    with pytest.raises(LedgerRecordError, match="bytes"):
        with_metadata({"text": "x" * 128 * 1024})
    assert len(line_of(with_metadata({"text": "x" * (128 * 1024 - 11)}), GENESIS, 1)) <= MAX_LINE_BYTES


def test_later_changes_of_the_callers_dict_do_not_reach_the_record() -> None:
    metadata: dict[str, Any] = {"list": [1]}
    made = with_metadata(metadata)
    metadata["list"].append(2)
    assert made.metadata == {"list": [1]}


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_any_json_object_comes_back_from_its_line(metadata: Any) -> None:
    line = line_of(with_metadata(metadata), GENESIS, 1)
    assert line.count(b"\n") == 1
    assert orjson.loads(line)["metadata"] == metadata
