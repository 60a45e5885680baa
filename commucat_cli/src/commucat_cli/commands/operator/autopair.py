"""``commucat-cli autopair``: a complete device for a program that cannot type codes."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import attrs
import typer

from commucat_cli.client.rest import answer_within, read_json
from commucat_cli.client.server_info import PATH as INFO_PATH
from commucat_cli.client.server_info import fetch_server_info
from commucat_cli.commands.operator.on_store import refuse_older_schema
from commucat_cli.commands.operator.secret_file import SecretFile
from commucat_cli.commands.operator.settings import ConfigFile, DataDirectory, OperatorError, explained, load
from commucat_cli.commands.options import JsonOption, encodable
from commucat_cli.commands.outcome import finish, run_interruptibly
from commucat_cli.commands.results import print_values
from commucat_cli.errors import AddressError, CliError, NotCommuCatError
from commucat_cli.transport import ServerAddress, Timeouts, Trust, Via, open_http
from commucat_crypto import DeviceCertificate, DeviceKeyPair, claim_statement
from commucat_proto import json_text
from commucat_server.config import ServerConfig
from commucat_server.identity.admissions import user_json
from commucat_server.identity.certificates import CertificateIssuer, row_of
from commucat_server.identity.pairing import SOURCE, key_event_of
from commucat_server.identity.tokens import enrolment_code_hash, new_enrolment_code, new_id
from commucat_server.ops.audit import OPERATOR, key_entry, paired_entry
from commucat_server.provision import NOISE_SECRET, open_store
from commucat_server.provision.federation_seed import read_federation_keys
from commucat_server.provision.operator_records import record_of
from commucat_storage import (
    Admission,
    AdmissionKind,
    AdmissionRefusedError,
    Device,
    DeviceStatus,
    EnrolmentCode,
    Storage,
    User,
)

CODE_LIFETIME = 60


@attrs.frozen(kw_only=True)
class Wanted:
    """Whose device it shall be."""

    handle: str | None
    user_id: str | None


def autopair(
    ctx: typer.Context,
    handle: Annotated[
        str | None,
        typer.Option("--handle", metavar="NAME", callback=encodable, show_default=False, help="Whose."),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="ID", callback=encodable, show_default=False, help="Likewise, by id."),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server", metavar="URL", show_default=False, help="Pair over the network, with --session."
        ),
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(
            "--session",
            metavar="TOKEN",
            envvar="COMMUCAT_SESSION",
            show_default=False,
            help="Session token of a device of the user. Others see it on a command line: better in "
            "COMMUCAT_SESSION.",
        ),
    ] = None,
    ttl: Annotated[
        int | None,
        typer.Option("--ttl", min=1, max=86_400, metavar="SECONDS", show_default=False, help="Of the code."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", callback=encodable, show_default=False, help="Of the device."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", show_default=False, help="Write there (mode 0600)."),
    ] = None,
    tls_ca: Annotated[
        Path | None, typer.Option("--tls-ca", metavar="FILE", show_default=False, help="PEM file to trust.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Do not check the TLS certificate.")] = False,
    as_json: JsonOption = False,
    config: ConfigFile = None,
    data_dir: DataDirectory = None,
) -> None:
    """Make a device of a user, and print all it needs to connect: keys, certificate, the server's keys.

    With --server and --session by a pairing code, else directly in the store. Everything together, with the
    private key, is a bundle: the file of --out, or what --json prints.

    With --out prints device_id, user_id and bundle=FILE.
    """
    source = ctx.get_parameter_source("session")
    if server is None and source is not None and source.name == "ENVIRONMENT":
        session = None  # for another command, perhaps
    if server is not None or session is not None:
        if server is None or session is None:
            raise typer.BadParameter("--server and --session belong together")
        if handle is not None or user is not None:
            raise typer.BadParameter("--session says whose device it is: leave --handle and --user out")
        if config is not None or data_dir is not None:
            raise typer.BadParameter("--server pairs over the network: leave --data-dir and --config out")
        try:
            address = ServerAddress.parse(server)
        except AddressError as exc:
            raise typer.BadParameter(str(exc), param_hint="--server") from exc
        if insecure and tls_ca is not None:
            raise typer.BadParameter("--tls-ca and --insecure exclude each other")
        trust = Trust(ca_file=tls_ca, insecure=insecure)

        def over_the_network() -> int:
            bundle = run_interruptibly(lambda: _pair(address, trust, session, ttl, name, out))
            _print(bundle, out, as_json=as_json)
            return 0

        finish(over_the_network)
    if (handle is None) == (user is None):
        raise typer.BadParameter("name the user by either --handle or --user")
    if name is not None or ttl is not None:
        raise typer.BadParameter("--name and --ttl are for pairing over the network (--server)")
    wanted = Wanted(handle=handle, user_id=user)

    def in_the_store() -> int:
        with explained():
            settings = load(config, data_dir)
            if settings.storage.postgres_dsn is None and not settings.storage.path.exists():
                raise OperatorError(f"there is no database at {settings.storage.path}; start the server once")
            refuse_older_schema(settings)
            bundle = run_interruptibly(lambda: _enrol(settings, wanted, out))
        _print(bundle, out, as_json=as_json)
        return 0

    finish(in_the_store)


def _print(bundle: dict[str, Any], out: Path | None, *, as_json: bool) -> None:
    values = bundle
    if out is not None:
        values = {"device_id": bundle["device_id"], "user_id": bundle["user_id"], "bundle": str(out)}
    elif not as_json:
        # What is an object or a list is so in its line, too.
        values = {
            name: json.dumps(value, separators=(",", ":")) if isinstance(value, dict | list) else value
            for name, value in bundle.items()
        }
    print_values(values, as_json=as_json)


def _bundle(keys: DeviceKeyPair, answer: dict[str, Any], server: dict[str, Any]) -> dict[str, Any]:
    return {
        "device_id": answer["device_id"],
        "user_id": answer["user_id"],
        "user": answer["user"],
        **_key_texts(keys),
        "status": answer["status"],
        "device_certificate": answer.get("device_certificate"),
        **server,
    }


def _key_texts(keys: DeviceKeyPair) -> dict[str, str]:
    return {"private_key": keys.private.hex(), "public_key": keys.public.hex()}


# -- over the network ------------------------------------------------------------------------------------


async def _pair(
    address: ServerAddress, trust: Trust, token: str, ttl: int | None, name: str | None, out: Path | None
) -> dict[str, Any]:
    timeouts = Timeouts()
    keys, device_id = DeviceKeyPair.generate(), new_id()
    async with open_http(address, trust, Via.BINARY, timeouts) as client:
        info = await fetch_server_info(client, timeouts)

        async def post(path: str, body: dict[str, Any], *headers: tuple[str, str]) -> dict[str, Any]:
            kind = ("content-type", "application/json")
            with answer_within(timeouts.request, f"the server does not answer {path}"):
                response = await client.request("POST", path, [kind, *headers], json_text.dumps(body))
            return read_json(response, path)

        server = {
            "server": address.url,
            "domain": info.domain,
            "device_ca_public": info.device_ca.hex(),
            "noise_public": info.noise_public.hex(),
            "noise_keys": sorted(key.hex() for key in info.noise_keys),
        }
        with SecretFile(out, {"device_id": device_id, **_key_texts(keys), **server}) as file:
            try:
                offer = await post(
                    "/api/pair", {} if ttl is None else {"ttl": ttl}, ("authorization", f"Bearer {token}")
                )
            except CliError as exc:
                raise OperatorError(f"no code was made: {exc}") from exc
            code = offer.get("pair_code")
            if not isinstance(code, str):
                raise OperatorError("the answer to /api/pair holds no code; is this a CommuCat server?")
            statement = claim_statement(
                domain=info.domain, code=code, device_id=device_id, public_key=keys.public
            )
            body = {
                "pair_code": code,
                "device_id": device_id,
                "device_name": name,
                "public_key": keys.public.hex(),
                "proof": keys.sign(statement).hex(),
            }
            answer = await post("/api/pair/claim", body)
            missing = [each for each in ("device_id", "user_id", "user", "status") if each not in answer]
            if missing:
                raise NotCommuCatError(
                    f"the answer to the claim lacks {', '.join(missing)} (see {INFO_PATH})"
                )
            bundle = _bundle(keys, answer, server)
            file.complete(bundle)
    return bundle


# -- in the store ----------------------------------------------------------------------------------------


async def _enrol(settings: ServerConfig, wanted: Wanted, out: Path | None) -> dict[str, Any]:
    authority = read_federation_keys(settings)
    async with open_store(settings) as storage:
        user = await _user(storage, wanted, settings.server.domain)
        keys, now = DeviceKeyPair.generate(), int(time.time())
        device = Device(
            device_id=new_id(),
            user_id=user.user_id,
            public_key=keys.public,
            status=DeviceStatus.ACTIVE,
            created_at=now,
        )
        secrets = await storage.active_secrets(NOISE_SECRET, now)
        noise = [secret.public.hex() for secret in secrets if secret.public is not None]
        if not noise:
            raise OperatorError("the server has no Noise key yet; start it once")
        issuer = CertificateIssuer(authority, storage, time.time)
        certificate = issuer.issue(user_id=user.user_id, device_id=device.device_id, public_key=keys.public)
        answer = {
            "device_id": device.device_id,
            "user_id": user.user_id,
            "user": user_json(user),
            "status": device.status.value,
            "device_certificate": certificate.to_wire(),
        }
        server = {
            "server": None,
            "domain": settings.server.domain,
            "device_ca_public": authority.public.hex(),
            "noise_public": noise[0],
            "noise_keys": sorted(noise),
        }
        bundle = _bundle(keys, answer, server)
        with SecretFile(out, bundle):
            await _admit(storage, device, certificate, now)
    return bundle


async def _admit(storage: Storage, device: Device, certificate: DeviceCertificate, now: int) -> None:
    event = key_event_of(device, now)
    entries = (
        key_entry(certificate, "certificate", OPERATOR, event.event_id),
        paired_entry(device, OPERATOR, "claim"),
    )
    # A code that nobody sees: used up by the admission, in one transaction with the device.
    code_hash = enrolment_code_hash(new_enrolment_code())
    await storage.add_enrolment_code(
        EnrolmentCode(
            code_hash=code_hash, user_id=device.user_id, created_at=now, expires_at=now + CODE_LIFETIME
        )
    )
    try:
        await storage.admit(
            Admission(
                kind=AdmissionKind.BY_CODE,
                device=device,
                code_hash=code_hash,
                certificate=row_of(certificate, SOURCE),
                key_event=event,
                records=tuple(record_of(digest, metadata, now) for digest, metadata in entries),
                now=now,
            )
        )
    except AdmissionRefusedError as exc:
        raise OperatorError(f"the device was not admitted: {exc}") from exc


async def _user(storage: Storage, wanted: Wanted, domain: str) -> User:
    if wanted.user_id is not None:
        user = await storage.load_user(wanted.user_id)
    else:
        assert wanted.handle is not None, "one of them is named"
        user = await storage.load_user_by_handle(wanted.handle, domain)
    if user is None:
        raise OperatorError(
            f"there is no user {wanted.handle or wanted.user_id} in {domain}; "
            "make one with: commucat-cli register-user"
        )
    return user
