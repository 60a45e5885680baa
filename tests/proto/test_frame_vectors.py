"""Every published CCP-1 vector of varints, frames and call messages, through the shared runners."""

import json
from pathlib import Path
from typing import Any

import pytest

from commucat_cli.conformance.failure import ConformanceFailure
from commucat_cli.conformance.frame_cases import RUNNERS

VECTORS = Path(__file__).parents[1] / "vectors"
DOCUMENTS: dict[str, dict[str, Any]] = {
    stem: json.loads((VECTORS / f"{stem}.json").read_text(encoding="utf-8")) for stem in RUNNERS
}
CASES = [
    pytest.param(stem, case, id=f"{stem}-{case['name']}")
    for stem, document in DOCUMENTS.items()
    for case in document["cases"]
]


@pytest.mark.parametrize(("stem", "case"), CASES)
def test_vector_holds(stem: str, case: dict[str, Any]) -> None:
    RUNNERS[stem](DOCUMENTS[stem], case)


def first(stem: str, **members: object) -> dict[str, Any]:
    """A copy of the first case that has these members."""
    return dict(next(c for c in DOCUMENTS[stem]["cases"] if members.items() <= c.items()))


@pytest.mark.parametrize("stem", RUNNERS)
def test_unknown_members_of_a_case_fail(stem: str) -> None:
    for case in DOCUMENTS[stem]["cases"]:
        with pytest.raises(ConformanceFailure, match="unknown"):
            RUNNERS[stem](DOCUMENTS[stem], {**case, "surprise": 1})


@pytest.mark.parametrize("stem", RUNNERS)
def test_case_without_content_fails(stem: str) -> None:
    with pytest.raises(ConformanceFailure):
        RUNNERS[stem](DOCUMENTS[stem], {"name": "empty"})


@pytest.mark.parametrize(
    ("stem", "change"),
    [
        ("varint", {"kind": "surprise"}),
        ("frames_good", {"kind": "surprise"}),
        ("frames_good", {"payload_kind": "surprise"}),
        ("frames_good", {"type": "Surprise"}),
        ("frames_bad", {"op": "surprise"}),
        ("call_messages", {"message": "Surprise"}),
    ],
)
def test_unknown_kind_fails(stem: str, change: dict[str, Any]) -> None:
    case = {**DOCUMENTS[stem]["cases"][0], **change}
    with pytest.raises(ConformanceFailure):
        RUNNERS[stem](DOCUMENTS[stem], case)


@pytest.mark.parametrize(
    ("stem", "case"),
    [
        ("varint", first("varint", kind="roundtrip") | {"value": "9"}),
        ("varint", first("varint", kind="decode_only") | {"consumed": 9}),
        ("varint", first("varint", kind="error") | {"error": "FrameTooLarge"}),
        ("varint", first("varint", kind="error") | {"hex": "00"}),
        ("varint", {"name": "canonical", "kind": "decode_only", "hex": "05", "value": "5", "consumed": 1}),
        ("frames_good", first("frames_good", kind="roundtrip") | {"sequence": 1}),
        ("frames_good", first("frames_good", kind="roundtrip") | {"consumed": 1}),
        ("frames_good", first("frames_good", kind="roundtrip") | {"payload_json": {"protocol_version": 1.0}}),
        ("frames_good", first("frames_good", kind="roundtrip") | {"sha256": ""}),
        ("frames_good", first("frames_good", kind="decode_only") | {"reencoded_hex": ""}),
        ("frames_bad", first("frames_bad", op="decode") | {"error": "VarintOverflow"}),
        ("frames_bad", first("frames_bad", op="decode") | {"frame_hex": "0405010100"}),
        ("frames_bad", first("frames_bad", op="encode") | {"channel_id": 1}),
        ("call_messages", first("call_messages", name="end_hangup") | {"normalised_text": "{}"}),
        ("call_messages", first("call_messages", name="end_hangup") | {"normalised": {}}),
        ("call_messages", first("call_messages", name="end_hangup") | {"input": {}}),
        ("call_messages", first("call_messages", name="offer_is_null") | {"error": "UnexpectedEof"}),
    ],
)
def test_wrong_expectation_fails(stem: str, case: dict[str, Any]) -> None:
    with pytest.raises(ConformanceFailure):
        RUNNERS[stem](DOCUMENTS[stem], case)
