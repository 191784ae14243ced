"""Bearer keys: made here, kept as hashes, compared in constant time.

    python -m serve.keys new NAME      prints a key, once, and the lines for the config

A key is 32 random bytes, so one SHA-256 hides it as well as a slow hash would: there is nothing to guess, and a
request does not pay for scrypt. Keys that people choose are not taken, because for them that would not hold.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import secrets
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from earnest.specs import explain
from serve.config import Key

PREFIX = "earnest-"
EVERYBODY = Key(name="everybody", sha256="0" * 64, metrics=True)
"""Who is served where no keys are configured: this machine only, without limits."""


def new_key() -> str:
    """A fresh key; its prefix lets scanners for leaked secrets find it."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def holder(keys: Sequence[Key], presented: str) -> Key | None:
    """Whose key this is. Every entry is compared, whole, so that time tells nothing."""
    found, ours = None, digest(presented)
    for key in keys:
        if hmac.compare_digest(key.sha256, ours):
            found = key
    return found


def bearer(header: str) -> str | None:
    """The key in an Authorization header, None where it holds none."""
    scheme, _, key = header.partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a new key and its config."""
    parser = argparse.ArgumentParser(prog="python -m serve.keys", description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["new"], help="make a key")
    parser.add_argument("name", help="whose key it is; stands in metrics and traces")
    options = parser.parse_args(arguments)
    key = new_key()
    try:
        entry = Key(name=options.name, sha256=digest(key))
    except ValidationError as error:
        sys.stderr.write(f"error: {explain(error, 'key')}\n")
        return 2
    sys.stdout.write(
        f'key: {key}\nIt is not kept anywhere. For the config:\n\n[[keys]]\nname = "{entry.name}"\n'
        f'sha256 = "{entry.sha256}"\n'
        "# requests_per_minute = 60\n# tokens_per_minute = 20000\n# concurrent = 4\n# rows = 16\n# max_tokens = 512\n"
        "# pairs = []  # all where left out\n# alphas = [0.0, 2.0]\n# adaptive = true\n# metrics = false\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
