"""ML-DSA-65 written down from FIPS 204, as a second opinion for tests.

Slow and not constant-time. It makes the deterministic signatures that the library under
test, which always hedges, cannot be asked for.
"""

import hashlib

Q = 8380417
D, TAU, GAMMA1, GAMMA2, ROWS, COLUMNS, ETA, OMEGA = 13, 49, 1 << 19, (Q - 1) // 32, 6, 5, 4, 55
BETA = TAU * ETA
CHALLENGE_LEN = 48
Poly = list[int]

ZETAS = [pow(1753, int(f"{i:08b}"[::-1], 2), Q) for i in range(256)]


def shake256(data: bytes, length: int) -> bytes:
    return hashlib.shake_256(data).digest(length)


def ntt(w: Poly) -> Poly:
    """Algorithm 41."""
    w, m, length = w.copy(), 0, 128
    while length >= 1:
        for start in range(0, 256, 2 * length):
            m += 1
            for j in range(start, start + length):
                t = ZETAS[m] * w[j + length] % Q
                w[j], w[j + length] = (w[j] + t) % Q, (w[j] - t) % Q
        length //= 2
    return w


def inverse_ntt(w: Poly) -> Poly:
    """Algorithm 42."""
    w, m, length = w.copy(), 256, 1
    while length < 256:
        for start in range(0, 256, 2 * length):
            m -= 1
            for j in range(start, start + length):
                low, high = w[j], w[j + length]
                w[j], w[j + length] = (low + high) % Q, ZETAS[m] * (high - low) % Q
        length *= 2
    return [x * 8347681 % Q for x in w]


def multiply(a: Poly, b: Poly) -> Poly:
    return [x * y % Q for x, y in zip(a, b, strict=True)]


def add(*polys: Poly) -> Poly:
    return [sum(column) % Q for column in zip(*polys, strict=True)]


def subtract(a: Poly, b: Poly) -> Poly:
    return [(x - y) % Q for x, y in zip(a, b, strict=True)]


def centred(x: int, modulus: int = Q) -> int:
    """The representative of x in (-modulus/2, modulus/2]."""
    x %= modulus
    return x - modulus if x > modulus // 2 else x


def norm(polys: list[Poly]) -> int:
    return max(abs(centred(x)) for poly in polys for x in poly)


def pack(values: Poly, bits: int) -> bytes:
    """Algorithm 16."""
    return sum(x << bits * i for i, x in enumerate(values)).to_bytes(32 * bits, "little")


def decompose(r: int) -> tuple[int, int]:
    """Algorithm 36: high and low part."""
    r %= Q
    low = centred(r, 2 * GAMMA2)
    if r - low == Q - 1:
        return 0, low - 1
    return (r - low) // (2 * GAMMA2), low


def reject_ntt_poly(seed: bytes) -> Poly:
    """Algorithm 30."""
    stream = hashlib.shake_128(seed).digest(1200)
    candidates = (int.from_bytes(stream[at : at + 3], "little") & 0x7FFFFF for at in range(0, 1200, 3))
    return [x for x in candidates if x < Q][:256]


def reject_bounded_poly(seed: bytes) -> Poly:
    """Algorithm 31 with eta = 4."""
    halves = (half for byte in shake256(seed, 512) for half in (byte % 16, byte // 16))
    return [(ETA - half) % Q for half in halves if half < 9][:256]


def expand_mask(seed: bytes, kappa: int) -> list[Poly]:
    """Algorithm 34."""
    masks = []
    for r in range(COLUMNS):
        number = int.from_bytes(shake256(seed + (kappa + r).to_bytes(2, "little"), 640), "little")
        masks.append([(GAMMA1 - (number >> 20 * i & 0xFFFFF)) % Q for i in range(256)])
    return masks


def sample_in_ball(seed: bytes) -> Poly:
    """Algorithm 29."""
    stream = iter(shake256(seed, 2000))
    signs = int.from_bytes(bytes(next(stream) for _ in range(8)), "little")
    c = [0] * 256
    for i in range(256 - TAU, 256):
        j = next(byte for byte in stream if byte <= i)
        c[i], c[j] = c[j], 1 if signs >> i + TAU - 256 & 1 == 0 else Q - 1
    return c


def pack_hint(hint: list[list[bool]]) -> bytes:
    """Algorithm 20."""
    positions, ends = [], []
    for row in hint:
        positions += [j for j, flag in enumerate(row) if flag]
        ends.append(len(positions))
    return bytes(positions).ljust(OMEGA, b"\0") + bytes(ends)


def sign_deterministically(xi: bytes, message: bytes) -> tuple[bytes, bytes]:
    """Return verifying key and signature with an empty context (algorithms 1, 2, 6 and 7)."""
    expanded = shake256(xi + bytes([ROWS, COLUMNS]), 128)
    rho, rho_prime, key = expanded[:32], expanded[32:96], expanded[96:]
    matrix = [[reject_ntt_poly(rho + bytes([s, r])) for s in range(COLUMNS)] for r in range(ROWS)]
    small = [reject_bounded_poly(rho_prime + bytes([r, 0])) for r in range(COLUMNS + ROWS)]
    s1, s2 = [ntt(poly) for poly in small[:COLUMNS]], small[COLUMNS:]

    def apply_matrix(vector: list[Poly]) -> list[Poly]:
        return [inverse_ntt(add(*map(multiply, row, vector))) for row in matrix]

    t = [add(a, b) for a, b in zip(apply_matrix(s1), s2, strict=True)]
    t0 = [ntt([centred(x, 1 << D) % Q for x in poly]) for poly in t]
    t1 = [[(x - centred(x, 1 << D)) >> D for x in poly] for poly in t]
    s2 = [ntt(poly) for poly in s2]
    verifying_key = rho + b"".join(pack(poly, 10) for poly in t1)

    mu = shake256(shake256(verifying_key, 64) + b"\0\0" + message, 64)
    mask_seed = shake256(key + bytes(32) + mu, 64)
    # Some five attempts are usual (FIPS 204, appendix C); more than 200 are a mistake here.
    for kappa in range(0, 200 * COLUMNS, COLUMNS):
        y = expand_mask(mask_seed, kappa)
        w = apply_matrix([ntt(poly) for poly in y])
        high = b"".join(pack([decompose(x)[0] for x in poly], 4) for poly in w)
        challenge = shake256(mu + high, CHALLENGE_LEN)
        c = ntt(sample_in_ball(challenge))
        z = [add(mask, inverse_ntt(multiply(c, s))) for mask, s in zip(y, s1, strict=True)]
        rest = [subtract(poly, inverse_ntt(multiply(c, s))) for poly, s in zip(w, s2, strict=True)]
        low = [[decompose(x)[1] for x in poly] for poly in rest]
        if norm(z) >= GAMMA1 - BETA or norm(low) >= GAMMA2 - BETA:
            continue
        ct0 = [inverse_ntt(multiply(c, poly)) for poly in t0]
        hint = [
            [decompose(r + x)[0] != decompose(r)[0] for r, x in zip(poly, shift, strict=True)]
            for poly, shift in zip(rest, ct0, strict=True)
        ]
        if norm(ct0) >= GAMMA2 or sum(map(sum, hint)) > OMEGA:
            continue
        packed_z = b"".join(pack([GAMMA1 - centred(x) for x in poly], 20) for poly in z)
        return verifying_key, challenge + packed_z + pack_hint(hint)
    raise AssertionError("no signature found")
