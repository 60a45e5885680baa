"""The first connection of a further device: it makes its key, claims a code, and pins the server."""

from pathlib import Path
from typing import Any

import attrs

from commucat_cli.client.invitation import Invitation
from commucat_cli.client.login import chosen_trust, keep_account, read_ca
from commucat_cli.client.rest import answer_within, read_json
from commucat_cli.client.server_info import ServerInfo, fetch_server_info
from commucat_cli.client.session import trust_of
from commucat_cli.errors import CliError, NotCommuCatError, ProfileError, RestError, TrustError
from commucat_cli.profile import Account, Profile
from commucat_cli.transport import HttpClient, ServerAddress, Timeouts, Trust, Via, open_http
from commucat_crypto import CryptoError, DeviceCertificate, NoisePattern, claim_statement
from commucat_proto import json_text

PATH = "/api/pair/claim"


@attrs.frozen(kw_only=True)
class ClaimRequest:
    """What a person asked for."""

    address: ServerAddress
    code: str = attrs.field(repr=False)
    name: str | None = None
    invitation: Invitation | None = None
    """The server's keys as another device has pinned them, if the code came with them."""
    ca_file: Path | None = None
    insecure: bool = False
    pattern: NoisePattern | None = None
    via: Via | None = None


@attrs.frozen(kw_only=True)
class ClaimResult:
    """A device that the server knows now."""

    account: Account
    waits: bool
    """Somebody has to approve it before it can connect."""


async def claim_device(
    profile: Profile,
    request: ClaimRequest,
    timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
) -> ClaimResult:
    """Claim a code with the profile's key. May be repeated with the same code after an interruption.

    Raises:
        CliError: what went wrong; the profile's key stays for the next attempt.
    """
    before = profile.state.account()
    if before is not None and before.user_id is not None:
        raise ProfileError(
            f"profile {profile.directory} belongs to {before.handle!r} at {before.server} already; "
            "use another profile for another device"
        )
    ca = None if request.ca_file is None else read_ca(request.ca_file)
    trust = chosen_trust(insecure=request.insecure, ca_file=request.ca_file, before=before)
    checked = Trust(ca_file=request.ca_file, pem=ca) if ca is not None else trust_of(profile.directory, trust)
    via = request.via or Via.BINARY
    async with open_http(request.address, checked, via, timeouts) as client:
        info = await fetch_server_info(client, timeouts)
        _check_invited(request, info)
        account = Account(
            server=request.address.url,
            trust=trust,
            domain=info.domain,
            server_static=info.noise_public,
            device_ca=info.device_ca,
            pattern=request.pattern or NoisePattern.XK,
            handle="",
            via=via,
        )
        if account.pattern.value not in info.patterns:
            offered = ", ".join(sorted(info.patterns))
            raise CliError(f"the server does not offer the pattern {account.pattern.value}, only {offered}")
        # Pinned before the server learns of this device: what a repeated claim must find.
        if before is not None and (before.domain, before.device_ca) != (info.domain, info.device_ca):
            raise TrustError(f"{request.address.url} is not the server of the first attempt")
        keep_account(profile, account, ca)
        answer = await _claim(client, profile, request, account, timeouts)
    account = _read_claim(answer, profile, account)
    keep_account(profile, account, ca)
    return ClaimResult(account=account, waits=account.certificate is None)


def _check_invited(request: ClaimRequest, info: ServerInfo) -> None:
    invited = request.invitation
    if invited is None:
        return
    if (invited.domain, invited.device_ca) != (info.domain, info.device_ca) or (
        invited.noise_public not in info.noise_keys
    ):
        raise TrustError(
            f"{request.address.url} is not the server of the device that made the code: it has other keys"
        )


async def _claim(
    client: HttpClient, profile: Profile, request: ClaimRequest, account: Account, timeouts: Timeouts
) -> dict[str, Any]:
    keys = profile.keys
    statement = claim_statement(
        domain=account.domain, code=request.code, device_id=keys.device_id, public_key=keys.device.public
    )
    body: dict[str, Any] = {
        "pair_code": request.code,
        "device_id": keys.device_id,
        "public_key": keys.device.public.hex(),
        "proof": keys.device.sign(statement).hex(),
    }
    if request.name is not None:
        body["device_name"] = request.name
    headers = [("content-type", "application/json"), ("accept", "application/json")]
    with answer_within(timeouts.request, f"the server does not answer {PATH}"):
        response = await client.request("POST", PATH, headers, json_text.dumps(body))
    try:
        return read_json(response, PATH)
    except RestError as exc:
        if exc.status == 404:
            raise CliError("the server knows no such code; is it spelled right, and its own?") from exc
        if exc.status == 400:
            raise CliError(f"the code cannot be used: {exc}; make a new one with: commucat-cli pair") from exc
        raise


def _read_claim(answer: dict[str, Any], profile: Profile, account: Account) -> Account:
    keys = profile.keys
    user = answer.get("user")
    handle = user.get("handle") if isinstance(user, dict) else None
    user_id = answer.get("user_id")
    if not isinstance(user_id, str) or not isinstance(handle, str):
        raise NotCommuCatError(f"the answer to {PATH} names no user; is this a CommuCat server?")
    if answer.get("device_id") != keys.device_id or answer.get("public_key") != keys.device.public.hex():
        raise TrustError("the server has taken another device id or key than this device's own")
    certificate = None
    if "device_certificate" in answer:
        try:
            certificate = DeviceCertificate.from_wire(answer["device_certificate"])
            certificate.verify(account.device_ca)
        except CryptoError as exc:
            raise TrustError(f"the server sent a wrong certificate for this device: {exc}") from exc
        expected = (user_id, keys.device_id, keys.device.public)
        if (certificate.user_id, certificate.device_id, certificate.public_key) != expected:
            raise TrustError("the server sent the certificate of another device")
    return attrs.evolve(account, handle=handle, user_id=user_id, certificate=certificate)
