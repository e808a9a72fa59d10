"""Seeds from a stable hash."""

import hashlib


def stable_seed(*parts: object, size: int = 7) -> int:
    """Return a seed of `size` bytes: the first bytes of the SHA-256 of the parts, joined by "|"."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:size], "big")
