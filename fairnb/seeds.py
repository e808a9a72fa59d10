"""Seeds from a stable hash."""

import hashlib


def stable_seed(*parts: object, bits: int = 56) -> int:
    """A seed of `bits` bits from the parts: the first bits of the SHA-256 of their text, joined by "|".

    Initial noise, prompt pairs and random controls use 64 bits, everything else 56.
    """
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest(), "big") >> (256 - bits)
