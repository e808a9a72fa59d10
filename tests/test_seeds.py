import hashlib

from fairnb.seeds import stable_seed


def test_a_seed_is_the_first_bytes_of_the_joined_parts() -> None:
    digest = hashlib.sha256(b"0|a photo of a doctor|3").digest()
    assert stable_seed(0, "a photo of a doctor", 3) == int.from_bytes(digest[:7], "big")
    assert stable_seed(0, "a photo of a doctor", 3, bits=64) == int.from_bytes(digest[:8], "big")
    assert stable_seed("noise") == 67521720962936137
