import json
import math
import struct
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commucat_proto.json_text import (
    MAX_DEPTH,
    JsonTextError,
    JsonValue,
    dumps,
    dumps_declared,
    float_text,
    loads,
    round_f32,
)
from proto.frame_builders import json_values, texts


def exact(value: object) -> str:
    """Tells 1 from 1.0 and 0.0 from -0.0, which == does not."""
    return json.dumps(value, sort_keys=True)


@given(json_values)
def test_round_trip(value: Any) -> None:
    assert exact(loads(dumps(value))) == exact(value)
    assert exact(loads(dumps_declared({"v": value}))) == exact({"v": value})


@given(json_values)
def test_text_is_compact_and_sorted(value: Any) -> None:
    without_floats = json.loads(json.dumps(value), parse_float=lambda _: 7)
    expected = json.dumps(without_floats, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    assert dumps(without_floats) == expected.encode()
    # A float anywhere sends the whole value down the exact path: same bytes around it.
    assert dumps([0.5, without_floats]) == f"[0.5,{expected}]".encode()


@given(st.binary(max_size=30))
def test_garbage_gives_a_value_or_a_json_error(data: bytes) -> None:
    try:
        value = loads(data)
    except JsonTextError:
        return
    assert exact(loads(dumps(value))) == exact(value)


@given(st.text(st.sampled_from('{}[]":,-0123456789.eE+ \\nutrlfas\x00'), max_size=30))
def test_json_like_garbage_agrees_with_the_standard_parser(text: str) -> None:
    def strict(digits: str) -> float:
        if not math.isfinite(number := float(digits)):
            raise ValueError("too large")
        return number

    def integer(digits: str) -> float:
        fits = digits != "-0" and -(2**63) <= int(digits) < 2**64
        return int(digits) if fits else strict(digits)

    try:
        expected = json.loads(text, parse_float=strict, parse_constant=strict, parse_int=integer)
    except ValueError:
        with pytest.raises(JsonTextError):
            loads(text.encode())
        return
    try:
        json.dumps(expected, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return  # lone surrogates, which the standard parser lets through, have a test of their own
    assert exact(loads(text.encode())) == exact(expected)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1.0, "1.0"),
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1e15, "1000000000000000.0"),
        (1e16, "1e16"),
        (-1e16, "-1e16"),
        (1.5e16, "1.5e16"),
        (0.0001, "0.0001"),
        (0.00001, "0.00001"),
        (-0.000012345, "-0.000012345"),
        (0.000001, "1e-6"),
        (1.25e-7, "1.25e-7"),
        (1.7976931348623157e308, "1.7976931348623157e308"),
        (5e-324, "5e-324"),
        (12345678901234.5, "12345678901234.5"),
        (math.nan, "null"),
        (math.inf, "null"),
        (-math.inf, "null"),
    ],
)
def test_floats_are_laid_out_as_serde_json_does(number: float, text: str) -> None:
    assert float_text(number) == text
    assert dumps(number) == text.encode()
    assert dumps({"a": [number]}) == f'{{"a":[{text}]}}'.encode()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_float_layout_follows_the_decimal_point(number: float) -> None:
    text = float_text(number)
    assert float(text) == number
    assert "+" not in text
    if number:
        _, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
        assert isinstance(exponent, int)
        point = len(digits) + exponent
        assert ("e" in text) == (not -5 < point <= 16)
        assert sum(c.isdigit() for c in text.partition("e")[0].replace(".", "").strip("-0")) <= len(digits)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"18446744073709551615", 2**64 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"18446744073709551616", 18446744073709551616.0),
        (b"-9223372036854775809", -9223372036854775809.0),
        (b"1" * 300, float("1" * 300)),
        (b"-0", -0.0),
        (b"[-0,0,-0.0,-1]", [-0.0, 0, -0.0, -1]),
        (b'{"a": -0}', {"a": -0.0}),
        (b'["2025-01-02 -0 ", -0, 18446744073709551616, 18446744073709551615]', None),
        (b"1E2", 100.0),
        (b"-0e3", -0.0),
        (b"1e-400", 0.0),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b" \t\r\n[1 , 2]\n", [1, 2]),
        (b'"\\u0000\\ud83d\\ude00\\/"', "\x00\U0001f600/"),
        (b'"\x7f"', "\x7f"),
    ],
)
def test_values_are_read_as_serde_json_does(text: bytes, value: object) -> None:
    if value is None:
        value = ["2025-01-02 -0 ", -0.0, 18446744073709551616.0, 18446744073709551615]
    assert exact(loads(text)) == exact(value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-16-le"),
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\xc0\x80"',
        b'"\\ud800"',
        b'"\\udc00"',
        b'"\\ud800\\u0041"',
        b'"\n"',
        b'"\x00"',
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e400",
        b"-1e400",
        b"1" * 400,
        b"1" * 5000,
        b"-0" + b"1" * 5000,
        b"01",
        b"-00",
        b"1.",
        b".5",
        b"+1",
        b"-",
        b"0x1",
        b"[1,]",
        b'{"a":1,}',
        b"{a:1}",
        b"{1:1}",
        b"{'a':1}",
        b"{}x",
        b"{}{}",
        b"{}\x00",
        b"\x0c{}",
        b"\xc2\xa0{}",
        b"//\n{}",
        b"{}/**/",
        b"True",
        b"nul",
        b'"\\x41"',
        b'"\\u12"',
        b"[-0,",
    ],
)
def test_everything_but_strict_json_is_refused(text: bytes) -> None:
    with pytest.raises(JsonTextError):
        loads(text)


def nested(levels: int, opening: str, inner: str, closing: str) -> bytes:
    return (opening * levels + inner + closing * levels).encode()


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"[":', "}]")])
def test_127_levels_are_the_limit(opening: str, closing: str) -> None:
    levels = MAX_DEPTH // (1 + opening.startswith("[{"))
    inner = "[0]" if levels * 2 + 1 == MAX_DEPTH and opening.startswith("[{") else "0"
    assert loads(nested(levels, opening, inner, closing)) is not None
    with pytest.raises(JsonTextError, match="deep"):
        loads(nested(levels + 1, opening, inner, closing))


def test_depth_is_counted_outside_strings_only() -> None:
    brackets = '[{\\"' * 500
    assert loads(f'["{brackets}"]'.encode()) == ['[{"' * 500]
    assert loads(b"[" + b"[],{}," * 500 + b"0]") is not None
    with pytest.raises(JsonTextError):
        loads(b'["' + brackets.encode() + b'",' + nested(MAX_DEPTH, "[", "", "]") + b"]")


def test_depth_of_a_member_that_is_overwritten_counts() -> None:
    with pytest.raises(JsonTextError):
        loads(b'{"a":' + nested(MAX_DEPTH, "[", "", "]") + b',"a":1}')


def test_absurd_depth_is_refused_without_exhausting_the_stack() -> None:
    for text in (nested(100_000, "[", "", "]"), b"[" * 200_000, nested(100_000, '{"a":', "1", "}")):
        with pytest.raises(JsonTextError):
            loads(text)


@pytest.mark.parametrize("leaf", [1, 1.5])
def test_what_peers_refuse_to_read_is_not_written(leaf: float) -> None:
    value: JsonValue = leaf
    for _ in range(MAX_DEPTH):
        value = [value]
    assert exact(loads(dumps(value))) == exact(value)
    for too_deep in ([value], {"a": value}):
        with pytest.raises(JsonTextError, match="deep"):
            dumps(too_deep)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2**64 - 1, b"18446744073709551615"),
        (-(2**63), b"-9223372036854775808"),
        (2**64, b"1.8446744073709552e19"),
        (-(2**63) - 1, b"-9.223372036854776e18"),
        ({"b": 2**64, "a": 1}, b'{"a":1,"b":1.8446744073709552e19}'),
        ({"b": (1, 2), "a": ()}, b'{"a":[],"b":[1,2]}'),
        ({"a": {}, "b": [], "c": [{}, []]}, b'{"a":{},"b":[],"c":[{},[]]}'),
        ({"a": {}, "b": [], "c": [{}, []], "d": 0.5}, b'{"a":{},"b":[],"c":[{},[]],"d":0.5}'),
        (True, b"true"),
        ([False, 1.0], b"[false,1.0]"),
    ],
)
def test_values_are_written_as_serde_json_does(value: JsonValue, text: bytes) -> None:
    assert dumps(value) == text


@given(texts)
def test_strings_are_the_same_on_both_paths(text: str) -> None:
    assert dumps_declared({text: text}) == dumps({text: text})


@given(st.lists(texts, unique=True, max_size=8))
def test_declared_order_is_kept_at_every_level(keys: list[str]) -> None:
    value: dict[str, JsonValue] = {key: dict.fromkeys(reversed(keys)) for key in keys}
    parsed = json.loads(dumps_declared(value))
    assert list(parsed) == keys
    assert all(list(inner) == keys[::-1] for inner in parsed.values())


@pytest.mark.parametrize(
    "value",
    ["\ud800", {"\udfff": 1}, [1.5, "\ud800"], {1: 2}, {None: 0.5}, b"bytes", {1, 2}, object(), 10**400, 1j],
)
def test_values_without_json_are_refused(value: Any) -> None:
    for broken in (value, [value], {"a": value}):
        with pytest.raises(JsonTextError):
            dumps(broken)
        with pytest.raises(JsonTextError):
            dumps_declared({"a": broken})


def test_a_value_inside_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(JsonTextError):
        dumps(loop)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_32_bit_floats_are_kept(number: float) -> None:
    assert round_f32(number) == number


@given(st.floats(-3e38, 3e38))
def test_rounding_to_32_bits_is_to_the_nearest(number: float) -> None:
    rounded = round_f32(number)
    assert rounded == struct.unpack("<f", struct.pack("<f", rounded))[0]
    assert abs(rounded - number) <= abs(number) * 2**-24 + 2**-150


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e39, -1e39, 10**400, "1", None])
def test_what_has_no_finite_32_bit_float_is_refused(number: Any) -> None:
    with pytest.raises(ValueError, match="32-bit"):
        round_f32(number)
