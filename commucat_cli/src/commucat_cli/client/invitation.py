"""What one device shows another so that it can join: the code, and which server it is good for.

As a URI, which fits a QR code::

    commucat://HOST:PORT/pair?code=XXXX-XXXX&domain=...&ca=64 hex digits&noise=64 hex digits

``ca`` and ``noise`` are the server's keys as the showing device has pinned them. Whoever reads the URI off
its screen needs to believe neither the network nor the TLS certificate about them.
"""

from urllib.parse import parse_qs, quote, urlencode, urlsplit

import attrs

from commucat_cli.errors import AddressError
from commucat_cli.transport import ServerAddress

SCHEME = "commucat"
_PATH = "/pair"
_MAX_LEN = 2048


@attrs.frozen(kw_only=True)
class Invitation:
    """One code of one server."""

    address: ServerAddress
    code: str = attrs.field(repr=False)
    domain: str
    device_ca: bytes
    noise_public: bytes

    def uri(self) -> str:
        """The text of the QR code."""
        query = {
            "code": self.code,
            "domain": self.domain,
            "ca": self.device_ca.hex(),
            "noise": self.noise_public.hex(),
        }
        return f"{SCHEME}://{self.address.authority}{_PATH}?{urlencode(query, quote_via=quote)}"

    @classmethod
    def parse(cls, text: str) -> "Invitation":
        """Read the text of a QR code.

        Raises:
            AddressError: it is no invitation.
        """
        try:
            if len(text) > _MAX_LEN:
                raise ValueError("too long")
            parts = urlsplit(text.strip())
            if parts.scheme != SCHEME or parts.path != _PATH:
                raise ValueError("another kind of address")
            query = parse_qs(parts.query, strict_parsing=True)
            [code], [domain], [ca], [noise] = (query[name] for name in ("code", "domain", "ca", "noise"))
            keys = bytes.fromhex(ca), bytes.fromhex(noise)
            if any(len(key) != 32 for key in keys) or not (code.isprintable() and domain.isprintable()):
                raise ValueError("a key has another length")
            address = ServerAddress.parse(f"https://{parts.netloc}")
        except (ValueError, KeyError) as exc:
            raise AddressError(
                f"this is no invitation; it must be the {SCHEME}:// text that pair has printed"
            ) from exc
        return cls(address=address, code=code, domain=domain, device_ca=keys[0], noise_public=keys[1])
