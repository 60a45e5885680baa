"""What the runners of cryptographic cases say about a case, in one place."""

from collections.abc import Callable
from typing import Any

from commucat_crypto import CryptoError

from .failure import ConformanceFailure

Case = dict[str, Any]


def reporting(run: Callable[[Case, Case], None]) -> Callable[[Case, Case], None]:
    """Make a runner report what it stumbles over as a failure of the case."""

    def run_and_report(document: Case, case: Case) -> None:
        try:
            run(document, case)
        except CryptoError as exc:
            raise ConformanceFailure(f"refused with {exc.code}: {exc}") from exc
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as exc:
            raise ConformanceFailure(f"malformed case: {exc!r}") from exc

    return run_and_report


def require_fields(case: Case, required: str, optional: str = "") -> None:
    """Fail unless the case has the required fields and no unknown ones; ``name`` and ``note`` are free."""
    missing = set(required.split()) - case.keys()
    unknown = case.keys() - set(required.split()) - set(optional.split()) - {"name", "note"}
    if missing or unknown:
        raise ConformanceFailure(f"unknown kind of case: lacks {sorted(missing)}, has {sorted(unknown)}")


def expect(what: str, actual: object, expected: object) -> None:
    """Fail unless both values are equal and of one type."""
    # True == 1 in Python, not in a vector.
    if type(actual) is not type(expected) or actual != expected:
        raise ConformanceFailure(f"{what}: computed {_show(actual)}, expected {_show(expected)}")


def _show(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)


def expect_hex(what: str, actual: bytes, expected_hex: str) -> None:
    """Fail unless the bytes are those of a lower-case hexadecimal text."""
    expect(what, actual.hex(), expected_hex)


def expect_error(code: str, action: Callable[[], object]) -> None:
    """Fail unless the action raises a :class:`CryptoError` with this code."""
    try:
        action()
    except CryptoError as exc:
        expect("error", exc.code, code)
    else:
        raise ConformanceFailure(f"accepted, expected the error {code}")


def expect_success(action: Callable[[], object]) -> None:
    """Fail if the action raises a :class:`CryptoError`."""
    try:
        action()
    except CryptoError as exc:
        raise ConformanceFailure(f"refused with {exc.code}: {exc}") from exc
