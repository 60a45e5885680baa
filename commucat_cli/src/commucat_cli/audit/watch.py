"""What a device makes of the ledger's head that a server tells it at each connect."""

from collections.abc import Sequence

import attrs

from commucat_cli.audit.signatures import HeadError, check_head
from commucat_ledger import LedgerHeadError, SignedHead


@attrs.frozen(kw_only=True)
class Judgement:
    """``keep``: the head to remember now, None for none; ``warning``: a line for the person, if any."""

    keep: SignedHead | None = None
    warning: str | None = None


def judge(told: object, known: Sequence[SignedHead], authority: bytes) -> Judgement:
    """Compare what the server tells with the heads that the device remembers, one for each ledger.

    ``authority`` is the server's key as pinned at login. A server that never spoke of a ledger need not
    begin.
    """
    if told is None:
        silent = "the server no longer says where its audit ledger stands" if known else None
        return Judgement(warning=silent)
    try:
        head = SignedHead.from_wire(told)
        check_head(head, authority)
    except (LedgerHeadError, HeadError) as exc:
        return Judgement(warning=f"what the server says about its audit ledger is not signed by it: {exc}")
    before = next((each for each in known if each.ledger == head.ledger), None)
    if before is None:
        if any(each.node == head.node for each in known):
            return Judgement(
                keep=head,
                warning=f"the server's audit ledger ({head.node}) was begun anew; ask its operator why",
            )
        return Judgement(keep=head)
    if head.size < before.size:
        return Judgement(
            warning=f"the server's audit ledger has {head.size} records, and had {before.size} when this "
            "device last saw it: records were removed, or a backup was restored"
        )
    if head.size == before.size and head.head != before.head:
        return Judgement(warning="the server's audit ledger was rewritten since this device last saw it")
    return Judgement(keep=head if head.size > before.size else None)
