"""What became of an entry of another server, and how the server is told."""

from typing import Any, TypeAlias

from commucat_server.federation import problems
from commucat_server.federation.problems import EventRefusal, refusal_of
from commucat_storage import GroupOutcome, Outcome, SubmissionOutcome

Result: TypeAlias = str | EventRefusal | None
"""``accepted`` or ``duplicate``, why not, or None: later."""


def result_of(outcome: Outcome) -> Result:
    """By what the store says."""
    if isinstance(outcome, GroupOutcome):
        if outcome.refused is None:
            return "duplicate" if outcome.duplicate else "accepted"
        return refusal_of(outcome.refused)
    assert isinstance(outcome, SubmissionOutcome), "nothing else was stored"
    if outcome.duplicate:
        return "duplicate"
    if outcome.accepted:
        return "accepted"
    reasons = [refusal.reason for refusal in outcome.refused]
    if not reasons or reasons[0] in problems.LATER:
        return None
    return refusal_of(reasons[0])


def result_document(result: Result) -> dict[str, Any]:
    """An entry of the answer to a batch."""
    match result:
        case EventRefusal(status, title, detail):
            return {"status": "refused", "code": status, "title": title, "detail": detail}
        case None:
            return {"status": "later", "detail": problems.NOT_STORED.detail}
        case _:
            return {"status": result}
