"""The certificate and its key in the data directory: made, checked, renewed."""

import datetime
import shutil
from pathlib import Path
from typing import Final

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from commucat_server.config import ServerConfig
from commucat_server.provision.certificate import is_ours, missing_names, names_of, self_signed
from commucat_server.provision.errors import ProvisionError
from commucat_server.provision.files import (
    PRIVATE_DIR_MODE,
    SECRET_MODE,
    read_small,
    reason_of,
    sync_dir,
    write_synced,
    write_whole,
)

_LIMIT: Final = 256 * 1024
_CERTIFICATE_MODE: Final = 0o644
_REPLACE: Final = "restore both files, or delete both to get new ones"


@attrs.frozen(kw_only=True)
class TlsFiles:
    """The PEM files to serve TLS with."""

    certificate: Path
    key: Path
    warnings: tuple[str, ...] = ()


def ensure_tls_files(config: ServerConfig, *, now: datetime.datetime) -> TlsFiles:
    """The configured pair, or the one in the data directory; made if there is none.

    A pair in the data directory that the server did not make itself is never changed. The caller
    holds the lock of the data directory.

    Raises:
        ProvisionError: one half of the pair is missing, a file is damaged or the two do not match.
    """
    server = config.server
    if server.tls_cert is not None and server.tls_key is not None:
        return TlsFiles(certificate=server.tls_cert, key=server.tls_key)
    folder = config.data_dir / "tls"
    files = TlsFiles(certificate=folder / "cert.pem", key=folder / "key.pem")
    certificate_pem = read_small(files.certificate, limit=_LIMIT)
    key_pem = read_small(files.key, limit=_LIMIT)
    if certificate_pem is None and key_pem is None:
        _create(folder, config, now)
        return files
    if certificate_pem is None or key_pem is None:
        missing, there = (files.certificate, files.key) if key_pem else (files.key, files.certificate)
        raise ProvisionError(f"{missing}: missing, but {there.name} is there; {_REPLACE}")
    return _checked(files, certificate_pem, key_pem, config, now)


def _create(folder: Path, config: ServerConfig, now: datetime.datetime) -> None:
    # Both files appear with one rename, so that a kill never leaves half a pair.
    draft = folder.with_name(".tls.new")
    key = ec.generate_private_key(ec.SECP256R1())
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificate_pem = _issue(key, config, now)
    try:
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(mode=PRIVATE_DIR_MODE)
        write_synced(draft / "key.pem", key_pem, mode=SECRET_MODE)
        write_synced(draft / "cert.pem", certificate_pem, mode=_CERTIFICATE_MODE)
        sync_dir(draft)
        draft.rename(folder)
        sync_dir(folder.parent)
    except OSError as exc:
        shutil.rmtree(draft, ignore_errors=True)
        raise ProvisionError(
            f"{folder}: the certificate cannot be put there: {reason_of(exc)}; "
            "the name must be free or an empty directory"
        ) from exc


def _issue(key: ec.EllipticCurvePrivateKey, config: ServerConfig, now: datetime.datetime) -> bytes:
    return self_signed(key=key, domain=config.server.domain, bind_host=config.server.bind.host, now=now)


def _checked(
    files: TlsFiles, certificate_pem: bytes, key_pem: bytes, config: ServerConfig, now: datetime.datetime
) -> TlsFiles:
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        public = certificate.public_key()
    except Exception as exc:
        # cryptography raises several kinds, some of them undocumented, for damaged input.
        raise ProvisionError(f"{files.certificate}: not a PEM certificate; {_REPLACE}") from exc
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except Exception as exc:
        raise ProvisionError(f"{files.key}: not an unencrypted PEM private key; {_REPLACE}") from exc
    if key.public_key() != public:
        raise ProvisionError(f"{files.key}: does not belong to {files.certificate.name}; {_REPLACE}")

    names = names_of(config.server.domain, config.server.bind.host)
    expired = certificate.not_valid_after_utc <= now
    if expired and is_ours(certificate) and isinstance(key, ec.EllipticCurvePrivateKey):
        # The key stays: one file changes, at once, and clients that pinned the key go on.
        write_whole(files.certificate, _issue(key, config, now), mode=_CERTIFICATE_MODE)
        return attrs.evolve(
            files, warnings=(f"{files.certificate}: had expired and was renewed; clients need the new file",)
        )
    warnings = []
    if expired:
        warnings.append(
            f"{files.certificate}: expired on {certificate.not_valid_after_utc:%Y-%m-%d}; renew it"
        )
    if missing_names(certificate, [config.server.domain.lower()]):
        advice = "delete both files to get new ones" if is_ours(certificate) else "get one that does"
        warnings.append(f"{files.certificate}: does not name {names[0]}; {advice}")
    return attrs.evolve(files, warnings=tuple(warnings))
