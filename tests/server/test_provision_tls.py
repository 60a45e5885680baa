"""The certificate that a server makes for itself works, and one that somebody else made is left alone."""

import contextlib
import datetime
import shutil
import ssl
import subprocess
from pathlib import Path

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from commucat_server.config import ServerConfig
from commucat_server.provision import DataDir, ProvisionError, prepare_data_dir, self_signed
from server.config_builders import load_text
from server.provision_builders import KilledError, KillSwitch

NOW = datetime.datetime.now(datetime.UTC)
LONG_AGO = NOW - datetime.timedelta(days=3660)


def ready(config: ServerConfig) -> DataDir:
    data_dir = prepare_data_dir(config)
    data_dir.close()
    return data_dir


def certificate_of(data_dir: DataDir) -> x509.Certificate:
    return x509.load_pem_x509_certificate(data_dir.tls_certificate.read_bytes())


def handshake(data_dir: DataDir, server_hostname: str) -> None:
    """A TLS 1.3 handshake in memory whose client trusts only the certificate itself."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(data_dir.tls_certificate, data_dir.tls_key)
    client_context = ssl.create_default_context(cafile=str(data_dir.tls_certificate))
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    client_context.minimum_version = ssl.TLSVersion.TLSv1_3
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=server_hostname)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    pending = [client, server]
    for _ in range(6):
        for side in list(pending):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            pending.remove(side)
    assert not pending


@pytest.mark.parametrize(
    "name", ["chat.example.org", "CHAT.example.org", "localhost", "127.0.0.1", "::1", "192.0.2.7"]
)
def test_the_certificate_is_its_own_trust_anchor(tmp_path: Path, name: str) -> None:
    config = load_text(tmp_path, bind="192.0.2.7:0", environ={"COMMUCAT_DOMAIN": "chat.example.org"})
    handshake(ready(config), name)


def test_other_names_are_not_covered(tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(ready(load_text(tmp_path)), "example.org")


@pytest.mark.parametrize(
    ("domain", "bind"),
    [
        ("localhost", "127.0.0.1:0"),
        ("192.0.2.1", "[fe80::1%eth0]:0"),
        (".".join(["a" * 60] * 4), "[::]:0"),
        ("my_host", "0.0.0.0:0"),
    ],
)
def test_openssl_verifies_it_strictly(tmp_path: Path, domain: str, bind: str) -> None:
    data_dir = ready(load_text(tmp_path, bind=bind, environ={"COMMUCAT_DOMAIN": domain}))
    openssl = shutil.which("openssl")
    assert openssl is not None
    path = str(data_dir.tls_certificate)
    result = subprocess.run(
        [openssl, "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", path, path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_what_is_in_it(tmp_path: Path) -> None:
    config = load_text(tmp_path, bind="chat.lan:0", environ={"COMMUCAT_DOMAIN": "chat.example.org"})
    certificate = certificate_of(ready(config))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert names.get_values_for_type(x509.DNSName) == ["chat.example.org", "localhost", "chat.lan"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    # A client whose clock is slow must not see it as not yet valid.
    assert certificate.not_valid_before_utc <= NOW - datetime.timedelta(hours=23)
    assert certificate.not_valid_after_utc >= NOW + datetime.timedelta(days=3600)


def test_all_addresses_is_no_name(tmp_path: Path) -> None:
    certificate = certificate_of(ready(load_text(tmp_path, bind="0.0.0.0:0")))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "0.0.0.0" not in map(str, names.get_values_for_type(x509.IPAddress))


def replace_pair(
    data_dir: DataDir, certificate: bytes, key: ec.EllipticCurvePrivateKey | None = None
) -> None:
    data_dir.tls_certificate.write_bytes(certificate)
    if key is not None:
        data_dir.tls_key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def expired_pair(data_dir: DataDir) -> None:
    key = serialization.load_pem_private_key(data_dir.tls_key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    replace_pair(data_dir, self_signed(key=key, domain="localhost", bind_host="127.0.0.1", now=LONG_AGO))


def foreign_pair(data_dir: DataDir, *, until: datetime.datetime) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(LONG_AGO).not_valid_after(until)
    builder = builder.add_extension(
        x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.DNSName("*.example.org")]),
        critical=False,
    )
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    replace_pair(data_dir, certificate, key)
    return certificate


def test_an_expired_certificate_of_ours_is_renewed_under_the_same_key(tmp_path: Path) -> None:
    config = load_text(tmp_path)
    key = ready(config).tls_key.read_bytes()
    expired_pair(ready(config))

    renewed = ready(config)

    [warning] = renewed.warnings
    assert "renewed" in warning
    assert renewed.tls_key.read_bytes() == key
    assert certificate_of(renewed).not_valid_after_utc > NOW
    handshake(renewed, "localhost")
    assert ready(config).warnings == ()


@pytest.mark.parametrize("calls", range(4))
def test_a_kill_while_renewing_keeps_a_pair_that_belongs_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    config = load_text(tmp_path)
    expired_pair(ready(config))
    with monkeypatch.context() as patches:
        switch = KillSwitch(patches, calls)
        switch.watch(Path, "unlink")
        switch.watch(Path, "replace")
        switch.watch(Path, "open")
        with contextlib.suppress(KilledError):
            ready(config)

    handshake(ready(config), "localhost")


def test_a_certificate_of_somebody_else_is_never_replaced(tmp_path: Path) -> None:
    config = load_text(tmp_path)
    certificate = foreign_pair(ready(config), until=NOW - datetime.timedelta(days=1))

    data_dir = ready(config)

    [warning] = data_dir.warnings
    assert "expired on" in warning
    assert data_dir.tls_certificate.read_bytes() == certificate


@pytest.mark.parametrize(
    ("domain", "warned"),
    [("localhost", False), ("chat.example.org", False), ("a.b.example.org", True), ("other.net", True)],
)
def test_a_certificate_without_the_domain_is_said(tmp_path: Path, domain: str, warned: bool) -> None:
    config = load_text(tmp_path)
    foreign_pair(ready(config), until=NOW + datetime.timedelta(days=1))

    data_dir = ready(load_text(tmp_path, environ={"COMMUCAT_DOMAIN": domain}))

    assert bool(data_dir.warnings) is warned
    assert all(f"does not name {domain}" in warning for warning in data_dir.warnings)


def test_a_new_domain_does_not_replace_our_certificate_but_is_said(tmp_path: Path) -> None:
    before = ready(load_text(tmp_path)).tls_certificate.read_bytes()
    data_dir = ready(load_text(tmp_path, environ={"COMMUCAT_DOMAIN": "192.0.2.9"}))
    [warning] = data_dir.warnings
    assert "does not name 192.0.2.9; delete both files" in warning
    assert data_dir.tls_certificate.read_bytes() == before


@pytest.mark.parametrize(("gone", "there"), [("cert.pem", "key.pem"), ("key.pem", "cert.pem")])
def test_half_a_pair_is_an_error(tmp_path: Path, gone: str, there: str) -> None:
    config = load_text(tmp_path)
    folder = ready(config).tls_key.parent
    (folder / gone).unlink()
    with pytest.raises(ProvisionError, match=rf"{gone}: missing, but {there} is there"):
        prepare_data_dir(config)


def test_damaged_and_foreign_halves_are_errors(tmp_path: Path) -> None:
    config = load_text(tmp_path)
    data_dir = ready(config)
    certificate, key = data_dir.tls_certificate.read_bytes(), data_dir.tls_key.read_bytes()

    data_dir.tls_certificate.write_bytes(certificate[:200])
    with pytest.raises(ProvisionError, match=r"cert\.pem: not a PEM certificate"):
        prepare_data_dir(config)
    data_dir.tls_certificate.write_bytes(certificate)
    data_dir.tls_key.write_bytes(key[:60])
    with pytest.raises(ProvisionError, match=r"key\.pem: not an unencrypted PEM private key"):
        prepare_data_dir(config)
    other = ready(attrs.evolve(config, data_dir=tmp_path / "other"))
    shutil.copy(other.tls_key, data_dir.tls_key)
    with pytest.raises(ProvisionError, match=r"key\.pem: does not belong to cert\.pem"):
        prepare_data_dir(config)


def test_an_empty_folder_is_filled_and_a_full_one_refused(tmp_path: Path) -> None:
    config = load_text(tmp_path)
    folder = config.data_dir / "tls"
    folder.mkdir(parents=True, mode=0o700)
    config.data_dir.chmod(0o700)
    handshake(ready(config), "localhost")

    for path in folder.iterdir():
        path.unlink()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ProvisionError, match="must be free or an empty directory"):
        prepare_data_dir(config)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_configured_pair_is_passed_on(tmp_path: Path) -> None:
    config = load_text(tmp_path, '[server]\ntls_cert = "c.pem"\ntls_key = "k.pem"')
    data_dir = ready(config)
    assert (data_dir.tls_certificate, data_dir.tls_key) == (tmp_path / "c.pem", tmp_path / "k.pem")
    assert not (config.data_dir / "tls").exists()
