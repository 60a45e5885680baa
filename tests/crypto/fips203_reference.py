"""ML-KEM-768 written down from FIPS 203, as a second opinion for tests.

Slow and not constant-time. It does what the library under test cannot be asked for: an
expanded decapsulation key, and encapsulation with a given m.
"""

import hashlib

Q = 3329
K = 3
Poly = list[int]


def _reversed_bits(value: int) -> int:
    return int(f"{value:07b}"[::-1], 2)


ZETAS = [pow(17, _reversed_bits(i), Q) for i in range(128)]
GAMMAS = [pow(17, 2 * _reversed_bits(i) + 1, Q) for i in range(128)]


def ntt(f: Poly) -> Poly:
    """Algorithm 9."""
    f, i, length = f.copy(), 1, 128
    while length >= 2:
        for start in range(0, 256, 2 * length):
            for j in range(start, start + length):
                t = ZETAS[i] * f[j + length] % Q
                f[j], f[j + length] = (f[j] + t) % Q, (f[j] - t) % Q
            i += 1
        length //= 2
    return f


def inverse_ntt(f: Poly) -> Poly:
    """Algorithm 10."""
    f, i, length = f.copy(), 127, 2
    while length <= 128:
        for start in range(0, 256, 2 * length):
            for j in range(start, start + length):
                low, high = f[j], f[j + length]
                f[j], f[j + length] = (low + high) % Q, ZETAS[i] * (high - low) % Q
            i -= 1
        length *= 2
    return [x * 3303 % Q for x in f]


def multiply(f: Poly, g: Poly) -> Poly:
    """Algorithm 11."""
    product: Poly = []
    for i, gamma in enumerate(GAMMAS):
        a0, a1, b0, b1 = f[2 * i], f[2 * i + 1], g[2 * i], g[2 * i + 1]
        product += [(a0 * b0 + a1 * b1 * gamma) % Q, (a0 * b1 + a1 * b0) % Q]
    return product


def add(*polys: Poly) -> Poly:
    return [sum(column) % Q for column in zip(*polys, strict=True)]


def byte_encode(f: Poly, bits: int) -> bytes:
    """Algorithm 5."""
    return sum(x << bits * i for i, x in enumerate(f)).to_bytes(32 * bits, "little")


def byte_decode(data: bytes, bits: int) -> Poly:
    """Algorithm 6."""
    number = int.from_bytes(data, "little")
    return [number >> bits * i & (1 << bits) - 1 for i in range(256)]


def compress(f: Poly, bits: int) -> Poly:
    """Equation 4.7: round half up."""
    return [((x << bits + 1) + Q) // (2 * Q) % (1 << bits) for x in f]


def sample_ntt(seed: bytes) -> Poly:
    """Algorithm 7."""
    stream = hashlib.shake_128(seed).digest(2000)
    accepted: Poly = []
    for at in range(0, len(stream) - 2, 3):
        a, b, c = stream[at : at + 3]
        accepted += [x for x in (a + 256 * (b % 16), b // 16 + 16 * c) if x < Q]
    return accepted[:256]


def sample_cbd(seed: bytes, n: int) -> Poly:
    """Algorithm 8 with eta = 2, over PRF(seed, n)."""
    number = int.from_bytes(hashlib.shake_256(seed + bytes([n])).digest(128), "little")
    bits = [number >> i & 1 for i in range(1024)]
    return [(bits[i] + bits[i + 1] - bits[i + 2] - bits[i + 3]) % Q for i in range(0, 1024, 4)]


def _matrix(rho: bytes) -> list[list[Poly]]:
    return [[sample_ntt(rho + bytes([j, i])) for j in range(K)] for i in range(K)]


def expand_key(seed: bytes) -> bytes:
    """Return the 2,400-byte decapsulation key of d | z (algorithms 13 and 16)."""
    d, z = seed[:32], seed[32:]
    g = hashlib.sha3_512(d + bytes([K])).digest()
    rho, sigma = g[:32], g[32:]
    matrix = _matrix(rho)
    s = [ntt(sample_cbd(sigma, n)) for n in range(K)]
    e = [ntt(sample_cbd(sigma, K + n)) for n in range(K)]
    t = [add(*(multiply(matrix[i][j], s[j]) for j in range(K)), e[i]) for i in range(K)]
    ek = b"".join(byte_encode(poly, 12) for poly in t) + rho
    return b"".join(byte_encode(poly, 12) for poly in s) + ek + hashlib.sha3_256(ek).digest() + z


def encapsulate_with(ek: bytes, m: bytes) -> tuple[bytes, bytes]:
    """Return shared secret and ciphertext for a given m (algorithms 14 and 17)."""
    g = hashlib.sha3_512(m + hashlib.sha3_256(ek).digest()).digest()
    shared, r = g[:32], g[32:]
    t = [byte_decode(ek[384 * i : 384 * (i + 1)], 12) for i in range(K)]
    matrix = _matrix(ek[384 * K :])
    y = [ntt(sample_cbd(r, n)) for n in range(K)]
    ciphertext = b""
    for i in range(K):
        u = inverse_ntt(add(*(multiply(matrix[j][i], y[j]) for j in range(K))))
        ciphertext += byte_encode(compress(add(u, sample_cbd(r, K + i)), 10), 10)
    mu = [bit * 1665 for bit in byte_decode(m, 1)]
    v = inverse_ntt(add(*(multiply(t[j], y[j]) for j in range(K))))
    return shared, ciphertext + byte_encode(compress(add(v, sample_cbd(r, 2 * K), mu), 4), 4)
