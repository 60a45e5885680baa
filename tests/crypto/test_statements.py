"""What is signed about keys, byte for byte. The first numbers are the protocol's own known answers."""

import pytest
from blake3 import blake3

from commucat_crypto import (
    DeviceKeyPair,
    claim_statement,
    history_statement,
    rotation_statement,
    verify_signature,
)

# Of the federation seed that the protocol's known answers share (docs/protocol.md, "Test vectors").
PRIVATE = bytes.fromhex("af27a91901dad2643dcd4743d79251d4a206e0a7884d18d88af03c13fde9d961")


def test_a_rotation_is_signed_as_servers_of_2025_check_it() -> None:
    statement = rotation_statement("dev-1", b"\1" * 32, expires_at=1_759_667_696, nonce=b"\5" * 8)

    assert statement.hex() == "158c9bac38139db256beb640d31ed739d9bba824fc08ae79add5a177fd682c1b"
    signature = DeviceKeyPair.from_private(PRIVATE).sign(statement)
    assert signature.hex() == (
        "2887877d18d6f63480ec463ee7906f5ebdbc9fafe26f55305ad5b87556d8111e"
        "95830c3d5153565d85ab8596d95657a96956f161905343d78d256d9eb926b104"
    )
    verify_signature(DeviceKeyPair.from_private(PRIVATE).public, statement, signature)


def test_a_claim_names_domain_code_device_and_key_with_their_lengths() -> None:
    key = bytes(range(32))

    statement = claim_statement(domain="é.example", code="ABCD-EFGH", device_id="", public_key=key)

    expected = b"commucat:pair-claim:v1" + b"\0\0\0\x0a\xc3\xa9.example" + b"\0\0\0\x09ABCD-EFGH" + b"\0" * 4
    assert statement == blake3(expected + key).digest()


def test_a_history_names_device_number_link_and_time() -> None:
    link = bytes(range(32))

    statement = history_statement("d", events=2, link=link, signed_at=3)

    expected = b"commucat:key-history:v1" + b"\0\0\0\1d" + b"\0" * 7 + b"\2" + link + b"\0" * 7 + b"\3"
    assert statement == blake3(expected).digest()


@pytest.mark.parametrize(
    ("one", "two"),
    [(("ab", "c"), ("a", "bc")), (("", "abc"), ("abc", "")), (("a", ""), ("", "a"))],
)
def test_fields_of_a_claim_do_not_run_into_each_other(one: tuple[str, str], two: tuple[str, str]) -> None:
    first, second = (
        claim_statement(domain=domain, code="ABCD-EFGH", device_id=device_id, public_key=bytes(32))
        for domain, device_id in (one, two)
    )

    assert first != second
