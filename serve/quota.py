"""How much each key may ask: requests and tokens per minute, requests and choices at a time; in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from serve.config import Key
from serve.errors import busy


@dataclass
class Bucket:
    """Holds a minute's worth and fills steadily; may be overdrawn by what is only known afterwards."""

    size: float
    level: float
    filled: float

    def fill(self, now: float) -> None:
        """Add what has come since."""
        self.level = min(self.size, self.level + (now - self.filled) * self.size / 60)
        self.filled = now

    def wait_for(self, amount: float) -> float:
        """Seconds until the level is at `amount`; 0 where it is."""
        return max(0.0, (amount - self.level) * 60 / self.size)


@dataclass
class Account:
    """One key's buckets and its requests under way."""

    requests: Bucket | None
    tokens: Bucket | None
    running: int = 0
    rows: int = 0


class Quota:
    """What the keys have used. A key whose limits changed begins anew."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[Key, Account] = {}

    def enter(self, key: Key, rows: int = 1) -> None:
        """Begin a request of so many choices. Raises a 429 that says when to come back where the key has none left."""
        account = self._account(key)
        if key.concurrent is not None and account.running >= key.concurrent:
            raise busy(f"{account.running} requests of this key are under way, as many as it may have", 1.0)
        if key.rows is not None and account.rows + rows > key.rows:
            raise busy(f"{account.rows} choices of this key are under way, and it may have {key.rows}", 1.0)
        # Tokens are paid when they are known: a key in debt waits until it is out of it.
        for bucket, least, what in ((account.tokens, 0.0, "tokens"), (account.requests, 1.0, "requests")):
            if bucket is not None and (seconds := bucket.wait_for(least)) > 0:
                raise busy(f"this key has used its {bucket.size:.0f} {what} per minute", seconds)
        if account.requests is not None:
            account.requests.level -= 1
        account.running += 1
        account.rows += rows

    def leave(self, key: Key, rows: int = 1) -> None:
        """End a request that `enter` let in."""
        account = self._account(key)
        account.running -= 1
        account.rows -= rows

    def pay(self, key: Key, tokens: int) -> None:
        """Count tokens, of a prompt or of an answer."""
        bucket = self._account(key).tokens
        if bucket is not None:
            bucket.level -= tokens

    def _account(self, key: Key) -> Account:
        now = self._clock()
        account = self._accounts.get(key)
        if account is None:
            account = Account(_full(key.requests_per_minute, now), _full(key.tokens_per_minute, now))
            self._accounts[key] = account
        for bucket in (account.requests, account.tokens):
            if bucket is not None:
                bucket.fill(now)
        return account


def _full(size: int | None, now: float) -> Bucket | None:
    return None if size is None else Bucket(size, size, now)
