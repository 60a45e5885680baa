"""BLAKE2s and its HMAC, against the standard library's own."""

import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from commucat_crypto.noise_backend import Blake2s, hmac_blake2s


@given(key=st.binary(max_size=64), data=st.binary(max_size=300))
def test_hmac_is_that_of_the_standard_library(key: bytes, data: bytes) -> None:
    assert hmac_blake2s(key, data) == hmac.digest(key, data, "blake2s")


def test_hash_of_abc() -> None:
    # RFC 7693, appendix B.
    expected = "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"
    assert Blake2s().hash(b"abc").hex() == expected
    assert Blake2s.hashlen == hashlib.blake2s().digest_size
    assert Blake2s.blocklen == hashlib.blake2s().block_size
