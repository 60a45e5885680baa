"""The first connection of a profile: pin the server, be admitted, keep the certificate."""

import time
from pathlib import Path

import attrs

from commucat_cli.client.noise_keys import follow
from commucat_cli.client.opening import attach
from commucat_cli.client.server_info import ServerInfo, fetch_server_info
from commucat_cli.client.session import read_own_certificate, trust_of, watch_ledger
from commucat_cli.errors import CliError, ProfileError, TrustError
from commucat_cli.profile import TLS_CA_NAME, Account, Profile
from commucat_cli.profile.files import write_private
from commucat_cli.transport import ServerAddress, Timeouts, Trust, Via, open_http
from commucat_crypto import NoisePattern
from commucat_proto import DELIVERY_ACK, SEND_ONLY, ClientParameters, UserHint

MAX_CA_LEN = 1024 * 1024


@attrs.frozen(kw_only=True)
class LoginRequest:
    """What a person asked for."""

    address: ServerAddress
    handle: str
    code: str | None = attrs.field(default=None, repr=False)
    ca_file: Path | None = None
    insecure: bool = False
    pattern: NoisePattern | None = None
    """None: what the profile used before, XK at first."""
    via: Via | None = None
    """None: what the profile used before, binary at first."""


async def log_in(profile: Profile, request: LoginRequest, timeouts: Timeouts = Timeouts()) -> Account:  # noqa: B008
    """Log in, or log in again with what the profile has pinned.

    An interrupted login is repeated with the same keys. The session is send-only: it neither
    reads the inbox nor takes over from a running ``listen``.

    Raises:
        CliError: what went wrong; the profile's keys stay for the next attempt.
    """
    before = profile.state.account()
    completed = before is not None and before.user_id is not None
    if completed:
        assert before is not None
        if before.handle != request.handle:
            raise ProfileError(
                f"profile {profile.directory} belongs to handle {before.handle!r}; "
                "use another profile for another handle"
            )
    ca = None if request.ca_file is None else read_ca(request.ca_file)
    trust = chosen_trust(insecure=request.insecure, ca_file=request.ca_file, before=before)
    checked = Trust(ca_file=request.ca_file, pem=ca) if ca is not None else trust_of(profile.directory, trust)
    via = request.via or (Via.BINARY if before is None else before.via)
    async with open_http(request.address, checked, via, timeouts) as client:
        info = await fetch_server_info(client, timeouts)
        if completed:
            assert before is not None
            account = _same_server(
                attrs.evolve(before, server=request.address.url, trust=trust, via=via), info
            )
            account = follow(list(info.noise_entries), account, time.time()) or account
            if request.pattern is not None:
                account = attrs.evolve(account, pattern=request.pattern)
        else:
            account = Account(
                server=request.address.url,
                trust=trust,
                domain=info.domain,
                server_static=info.noise_public,
                device_ca=info.device_ca,
                pattern=request.pattern or NoisePattern.XK,
                handle=request.handle,
                via=via,
            )
            account = follow(list(info.noise_entries), account, time.time()) or account
            # Pinned before the server learns of this device: what a repeated login must find.
            keep_account(profile, account, ca)
        if account.pattern.value not in info.patterns:
            offered = ", ".join(sorted(info.patterns))
            raise CliError(f"the server does not offer the pattern {account.pattern.value}, only {offered}")
        parameters = ClientParameters(
            domain=account.domain,
            server_static=account.server_static,
            device_id=profile.keys.device_id,
            device_keys=profile.keys.device,
            static=profile.keys.static,
            pattern=account.pattern,
            user=UserHint(handle=request.handle),
            capabilities=(DELIVERY_ACK, SEND_ONLY),
            code=request.code,
        )
        async with attach(client, parameters, timeouts) as connection:
            certificate = read_own_certificate(
                connection.info, device_id=profile.keys.device_id, account=account
            )
            if certificate is None or certificate.public_key != profile.keys.device.public:
                raise TrustError("the server gave this device no certificate for its key")
            if completed and connection.info.user_id != account.user_id:
                raise TrustError("the server takes this device for another user than at the first login")
            account = attrs.evolve(account, user_id=connection.info.user_id, certificate=certificate)
            keep_account(profile, account, ca)
            watch_ledger(profile, account, connection.info)
    return account


def _same_server(account: Account, info: ServerInfo) -> Account:
    if info.domain != account.domain or info.device_ca != account.device_ca:
        raise TrustError(
            f"{account.server} is not the server this profile was made for: it has another domain or "
            "certificate authority; log in with a new profile"
        )
    return account


def chosen_trust(*, insecure: bool, ca_file: Path | None, before: Account | None) -> str:
    """How TLS is to be checked from now on."""
    if insecure:
        return "insecure"
    if ca_file is not None:
        return "file"
    return before.trust if before is not None and before.trust == "file" else "system"


def read_ca(path: Path) -> str:
    """The certificates in a PEM file.

    Raises:
        TrustError: it cannot be read, or holds none.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CA_LEN + 1)
    except OSError as exc:
        raise TrustError(f"cannot read the CA file {path}: {exc.strerror}") from exc
    if len(data) > MAX_CA_LEN or b"-----BEGIN CERTIFICATE-----" not in data:
        raise TrustError(f"{path} holds no certificate in PEM form")
    # Certificates in PEM form are ASCII; what stands between them is for people.
    return data.decode("ascii", "ignore")


def keep_account(profile: Profile, account: Account, ca: str | None) -> None:
    """Remember an account, and a copy of the CA file: the profile must not depend on its place.

    Not before the server was found to be the right one by it: a wrong file given to a
    repeated login must not lock a working profile out.
    """
    if ca is not None:
        write_private(profile.directory / TLS_CA_NAME, ca.encode())
    profile.state.save_account(account)
