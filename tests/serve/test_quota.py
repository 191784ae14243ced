"""Limits per minute fill steadily, debts are paid, and nothing is counted twice."""

import pytest
from serve.config import Key
from serve.errors import ApiError
from serve.quota import Quota

HASH = "0" * 64


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def retry_after(quota: Quota, key: Key) -> int:
    with pytest.raises(ApiError) as refused:
        quota.enter(key)
    assert refused.value.status == 429
    return int(refused.value.headers["Retry-After"])


def test_requests_come_back_one_by_one() -> None:
    clock, key = Clock(), Key(name="k", sha256=HASH, requests_per_minute=6)
    quota = Quota(clock)
    for _ in range(6):
        quota.enter(key)
    wait = retry_after(quota, key)
    assert 10 <= wait <= 11
    clock.now += wait
    quota.enter(key)
    retry_after(quota, key)
    clock.now += 3600
    for _ in range(6):
        quota.enter(key)
    retry_after(quota, key)


def test_a_debt_of_tokens_is_paid_off_before_the_next_request() -> None:
    clock, key = Clock(), Key(name="k", sha256=HASH, tokens_per_minute=60)
    quota = Quota(clock)
    quota.enter(key)
    quota.pay(key, 90)
    assert 30 <= retry_after(quota, key) <= 31
    clock.now += 30
    quota.enter(key)


def test_who_left_makes_room() -> None:
    key = Key(name="k", sha256=HASH, concurrent=2)
    quota = Quota()
    quota.enter(key)
    quota.enter(key)
    retry_after(quota, key)
    quota.leave(key)
    quota.enter(key)


def test_keys_do_not_pay_for_each_other() -> None:
    one, other = (Key(name=name, sha256=HASH, requests_per_minute=1) for name in "ab")
    quota = Quota()
    quota.enter(one)
    quota.enter(other)
    retry_after(quota, one)


def test_a_key_holds_so_many_choices_at_a_time() -> None:
    key, quota = Key(name="rows", sha256="0" * 64, rows=16), Quota(lambda: 0.0)
    quota.enter(key, 12)
    with pytest.raises(ApiError) as refused:
        quota.enter(key, 5)
    assert refused.value.status == 429
    quota.enter(key, 4)
    quota.leave(key, 12)
    quota.enter(key, 12)
