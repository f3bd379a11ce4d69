"""Prints the digest of the states that a few random logs fold to: run under several OPENBLAS_CORETYPEs, it must not change."""

from __future__ import annotations

import hashlib

from core_logs import fold, random_log

from banditroute.log.checkpoint import encode


def digest() -> str:
    together = hashlib.sha256()
    for seed in range(3):
        together.update(encode(fold(random_log(seed, 2100 if seed == 0 else 300))[0]))
    return together.hexdigest()


if __name__ == "__main__":
    print(digest())
