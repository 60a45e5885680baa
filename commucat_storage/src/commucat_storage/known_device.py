"""A device that says Hello, from one row of a database."""

from collections.abc import Sequence
from typing import Any

import attrs

from commucat_storage.records import CertificateRow, Device, DeviceStatus, KnownDevice, User


def known_device_of(row: Sequence[Any]) -> KnownDevice:
    """From the fields of a device, its user and its certificate, in their order; the serial is text, and
    None without a certificate."""
    values = iter(row)

    def of(kind: type[attrs.AttrsInstance]) -> dict[str, Any]:
        return {field.name: next(values) for field in attrs.fields(kind)}

    device, user, certificate = of(Device), of(User), of(CertificateRow)
    device["status"] = DeviceStatus(device["status"])
    shown = None
    if certificate["serial"] is not None:
        certificate["serial"] = int(certificate["serial"])
        shown = CertificateRow(**certificate)
    return KnownDevice(device=Device(**device), user=User(**user), certificate=shown)
