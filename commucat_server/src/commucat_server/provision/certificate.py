"""The TLS certificate that a server makes for itself."""

import datetime
import ipaddress
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_ORGANISATION: Final = "CommuCat self-signed"
"""Marks the certificates that this module made; only those are ever replaced."""
_LIFETIME: Final = datetime.timedelta(days=3650)
"""Clients keep the certificate as a file: each renewal costs all of them a visit."""
_CLOCK_SKEW: Final = datetime.timedelta(days=1)
_MAX_COMMON_NAME: Final = 64  # RFC 5280, appendix A.1, ub-common-name
_ALWAYS: Final = ("localhost", "127.0.0.1", "::1")


def self_signed(
    *, key: ec.EllipticCurvePrivateKey, domain: str, bind_host: str, now: datetime.datetime
) -> bytes:
    """A self-signed PEM certificate for the domain, the local names and the host the server listens on.

    It is its own trust anchor: clients put it where certificate authorities go. It is valid from
    one day before ``now`` (an aware datetime) for ten years.
    """
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, domain[:_MAX_COMMON_NAME]),
        ]
    )
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    alternatives = [_general_name(text) for text in names_of(domain, bind_host)]
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now - _CLOCK_SKEW + _LIFETIME)
        # Not a CA: verifiers such as webpki refuse a CA as a server's certificate, and who
        # trusts this file does not trust the server to vouch for other names.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_signing_only(), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(key_id, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def names_of(domain: str, bind_host: str) -> list[str]:
    """The names and addresses a certificate shall have, each once."""
    names = [domain, *_ALWAYS]
    # Nobody connects to "all addresses" by that name.
    if bind_host not in ("0.0.0.0", "::"):  # noqa: S104  # compared, not bound
        names.append(bind_host.partition("%")[0])
    return list(dict.fromkeys(name.lower() for name in names))


def is_ours(certificate: x509.Certificate) -> bool:
    """Tell whether :func:`self_signed` made it."""
    marks = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return certificate.issuer == certificate.subject and [mark.value for mark in marks] == [_ORGANISATION]


def missing_names(certificate: x509.Certificate, names: list[str]) -> list[str]:
    """Those of ``names`` that the certificate does not cover; wildcards count for one label."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return names
    covered = {name.lower() for name in found.get_values_for_type(x509.DNSName)}
    covered |= {str(address) for address in found.get_values_for_type(x509.IPAddress)}
    return [
        name
        for name in names
        if _canonical(name) not in covered and f"*.{name.partition('.')[2]}" not in covered
    ]


def _canonical(name: str) -> str:
    general = _general_name(name)
    return str(general.value).lower()


def _general_name(text: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _signing_only() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
