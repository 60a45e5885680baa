"""Where the REST interface has linked accounts, and how far devices have read."""

from urllib.parse import quote

ACCOUNT_LINKS = "/api/account-links"
INBOX_OFFSETS = "/api/inbox-offsets"


def link_path(account: str) -> str:
    """Of the link to one account."""
    return f"{ACCOUNT_LINKS}/{quote(account, safe='')}"
