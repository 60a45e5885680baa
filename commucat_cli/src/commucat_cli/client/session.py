"""Sessions of a profile: the pinned server, the profile's keys, its place in the inbox."""

import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from commucat_cli.audit.watch import judge
from commucat_cli.client.connection import Connection, SessionInfo
from commucat_cli.client.noise_keys import follow
from commucat_cli.client.opening import attach
from commucat_cli.client.server_info import fetch_server_info
from commucat_cli.errors import (
    CliError,
    HandshakeRefused,
    NotCommuCatError,
    RetryableError,
    TrustError,
)
from commucat_cli.profile import TLS_CA_NAME, Account, Profile, ProfileKeys
from commucat_cli.terminal import warn
from commucat_cli.transport import HttpClient, ServerAddress, Timeouts, Trust, Via, open_http
from commucat_crypto import CryptoError, DeviceCertificate
from commucat_proto import DELIVERY_ACK, DELIVERY_STATUS, SEND_ONLY, ClientParameters, Resume, UserHint

Notice = Callable[[str], None]
"""Tells a person one line."""

FIRST_WAIT = 0.2
LONGEST_WAIT = 5.0
"""Also how long a session must last before the waits begin anew."""


def trust_of(directory: Path, trust: str) -> Trust:
    """How a profile's login decided to check TLS."""
    if trust == "file":
        return Trust(ca_file=directory / TLS_CA_NAME)
    return Trust(insecure=trust == "insecure")


@asynccontextmanager
async def open_session(
    profile: Profile,
    *,
    receives: bool,
    reported: bool = False,
    capabilities: tuple[str, ...] = (),
    timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
    via: Via | None = None,
    keys: ProfileKeys | None = None,
) -> AsyncIterator[Connection]:
    """A session of this device. One that does not receive leaves the inbox and other sessions alone.
    ``reported``: the server is to report what becomes of the messages. ``capabilities``: further ones.
    ``keys``: instead of the profile's.

    ``via`` None: the way that was chosen at login.

    Raises:
        TrustError: the server is another one than at login.
        CliError: whatever else went wrong.
    """
    account = profile.account()
    keys = keys or profile.reload_keys()
    cursor = profile.state.cursor() if receives else None
    parameters = ClientParameters(
        domain=account.domain,
        server_static=account.server_static,
        device_id=keys.device_id,
        device_keys=keys.device,
        static=keys.static,
        pattern=account.pattern,
        # A device that waited for approval has no certificate yet. The server tells it that it still waits
        # only if it knows whose device it is.
        user=UserHint(handle=account.handle if account.certificate is None else None),
        capabilities=(
            DELIVERY_ACK,
            *(() if receives else (SEND_ONLY,)),
            *((DELIVERY_STATUS,) if reported else ()),
            *capabilities,
        ),
        resume=Resume(cursor.epoch, cursor.ack) if cursor is not None else None,
    )
    address = ServerAddress.parse(account.server)
    trust = trust_of(profile.directory, account.trust)
    async with open_http(address, trust, via or account.via, timeouts) as client:
        for last_try in (False, True):
            established = False
            try:
                async with attach(client, parameters, timeouts) as connection:
                    established = True
                    _learn(profile, account, connection.info, keys)
                    yield connection
                return
            except (HandshakeRefused, NotCommuCatError):
                if established:
                    raise
                renewed = await _check_server(client, account, timeouts)
                if renewed is None or last_try:
                    raise
                # Away for so long that the server has forgotten the key: it has signed a newer one.
                account = _keep_server_key(profile, renewed)
                parameters = attrs.evolve(parameters, server_static=account.server_static)


def _learn(profile: Profile, account: Account, info: SessionInfo, keys: ProfileKeys) -> None:
    if info.user_id != account.user_id:
        raise TrustError("the server takes this device for another user than at login")
    certificate = read_own_certificate(info, device_id=keys.device_id, account=account)
    if certificate is not None and certificate != account.certificate:
        if certificate.public_key != keys.device.public:
            raise TrustError("the server's certificate for this device holds another key")
        profile.state.save_certificate(certificate)
    renewed = follow(info.ack.get("noise_keys"), account, time.time())
    if renewed is not None:
        _keep_server_key(profile, renewed)
    watch_ledger(profile, account, info)


def _keep_server_key(profile: Profile, account: Account) -> Account:
    profile.state.save_server_key(account.server_static, account.server_key_version)
    return account


def watch_ledger(profile: Profile, account: Account, info: SessionInfo) -> None:
    """Remember where the server says its audit ledger stands, and warn when that is not possible."""
    judgement = judge(info.ack.get("ledger"), profile.state.ledger_heads(), account.device_ca)
    if judgement.keep is not None:
        profile.state.keep_ledger_head(judgement.keep)
    if judgement.warning is not None:
        warn(judgement.warning)


def read_own_certificate(info: SessionInfo, *, device_id: str, account: Account) -> DeviceCertificate | None:
    """The certificate that came with the final Ack, checked against the pinned authority.

    Raises:
        TrustError: another authority, a wrong signature, or another device's certificate.
    """
    told = info.ack.get("device_ca_public")
    if told is not None and told != account.device_ca.hex():
        raise TrustError(f"the server at {account.server} has another certificate authority than at login")
    if "device_certificate" not in info.ack:
        return None
    try:
        certificate = DeviceCertificate.from_wire(info.ack["device_certificate"])
        certificate.verify(account.device_ca)
    except CryptoError as exc:
        raise TrustError(f"the server sent a wrong certificate for this device: {exc}") from exc
    if certificate.device_id != device_id or certificate.user_id != info.user_id:
        raise TrustError("the server sent the certificate of another device")
    return certificate


async def _check_server(client: HttpClient, account: Account, timeouts: Timeouts) -> Account | None:
    """A refused handshake may only mean that this is another server: say so if it is.

    The account with the server's newer Noise key, if it has one that this device can believe.
    """
    try:
        info = await fetch_server_info(client, timeouts)
    except CliError:
        return None  # the refusal itself tells more than this
    same = info.domain == account.domain and info.device_ca == account.device_ca
    if same and (renewed := follow(list(info.noise_entries), account, time.time())) is not None:
        return renewed
    changed = [
        name
        for name, same in (
            ("domain", info.domain == account.domain),
            ("Noise key", account.server_static in info.noise_keys),
            ("certificate authority", info.device_ca == account.device_ca),
        )
        if not same
    ]
    if changed:
        raise TrustError(
            f"{account.server} is not the server this profile was made for: other {', '.join(changed)}; "
            "if the server was set up anew, log in with a new profile"
        )
    return None


class Backoff:
    """Waits between attempts to connect: doubling, with jitter, until a session has lasted."""

    def __init__(self, notice: Notice) -> None:
        self._notice = notice
        self._wait = FIRST_WAIT
        self._told: str | None = None
        self._connected_at: float | None = None

    def succeeded(self) -> None:
        if self._told is not None:
            self._notice("connected again")
        self._told = None
        self._connected_at = trio.current_time()

    async def after(self, failure: RetryableError) -> None:
        """Tell why (once for the same reason) and wait."""
        # Being admitted is not enough: a server that lets everybody in and drops them at once
        # would be asked several times a second for ever.
        if self._connected_at is not None and trio.current_time() - self._connected_at >= LONGEST_WAIT:
            self._wait = FIRST_WAIT
        self._connected_at = None
        text = str(failure)
        if text != self._told:
            self._told = text
            self._notice(f"{text}; trying again")
        # Many clients lose the same server at once; they must not come back in step.
        jitter = 0.5 + int.from_bytes(os.urandom(2), sys.byteorder) / 65_536
        await trio.sleep(self._wait * jitter)
        self._wait = min(LONGEST_WAIT, self._wait * 2)
