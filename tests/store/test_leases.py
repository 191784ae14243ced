"""Of several drivers on one store one has a step's lease, until it gives it back, ends or dies."""

import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from earnest.store import Leases, Store

FOREVER, SOON = 3600.0, 0.6


@pytest.fixture(params=["local", "bucket"])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Leases]:
    """Makes a driver's leases on one store; they have begun."""
    root = str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}"
    store = Store(root, cache=tmp_path / "cache")

    def make(name: str, expiry_s: float = FOREVER) -> Leases:
        leases = Leases(store._fs, store._base, name, expiry_s)
        leases.start()
        return leases

    return make


def test_a_lease_is_one_drivers_until_it_gives_it_back(driver: Callable[..., Leases]) -> None:
    first, second = driver("first"), driver("second")
    assert first.take("d1")
    assert first.take("d1")
    assert not second.take("d1")
    assert not second.is_free("d1")
    assert second.held_by_others() == {"d1": "first"}
    assert first.held_by_others() == {}
    first.give_back("d1")
    assert second.is_free("d1")
    assert second.take("d1")
    assert not first.take("d1")


def test_a_driver_that_ended_holds_nothing_and_leaves_nothing_of_finished_steps(driver: Callable[..., Leases]) -> None:
    first, second = driver("first"), driver("second")
    assert first.take("d1")
    assert first.take("d2")
    first.end(finished=["d1"])
    assert second.take("d2")
    assert second._names("leases") == ["d2"]
    assert second._names("drivers") == ["second"]


def test_a_heartbeat_that_stands_still_expires_on_the_observers_clock(driver: Callable[..., Leases]) -> None:
    """Its machine is gone without a word. What its clock said does not matter."""
    gone, other = driver("gone"), driver("other", SOON)
    assert gone.take("d1")
    gone._ending.set()
    assert not other.take("d1")
    assert not other.is_free("d1")
    threading.Event().wait(SOON)
    assert other.is_free("d1")
    assert other.take("d1")


def test_a_heartbeat_that_goes_on_keeps_the_lease(driver: Callable[..., Leases]) -> None:
    busy, other = driver("busy", SOON), driver("other", 3 * SOON)
    assert busy.take("d1")
    for _ in range(4):
        assert not other.take("d1")
        threading.Event().wait(SOON)
    assert not other.take("d1")


def test_a_lease_whose_writer_was_killed_before_its_name_was_written_expires(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    (tmp_path / "leases" / "d1").mkdir(parents=True)
    (tmp_path / "leases" / "d1" / "1").write_bytes(b"")
    other = Leases(store._fs, store._base, "other", SOON)
    other.start()
    assert not other.take("d1")
    threading.Event().wait(SOON)
    assert other.take("d1")


def test_a_driver_killed_on_this_machine_is_known_to_be_dead_at_once(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    program = (
        "import os, signal, sys; from earnest.store import Store; leases = Store(sys.argv[1]).leases('killed'); "
        "leases.start(); assert leases.take('d1'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    other = Leases(store._fs, store._base, "other", FOREVER)
    other.start()
    assert (tmp_path / "drivers" / "killed").is_file()
    assert other.take("d1")


def race(root: str, name: str, start: "multiprocessing.synchronize.Barrier", won: "multiprocessing.Queue[str]") -> None:
    leases = Store(root).leases(name)
    leases.start()
    start.wait()
    won.put(" ".join(step for step in map(str, range(40)) if leases.take(step)))
    start.wait()


@pytest.mark.parametrize("expired", [False, True])
def test_of_processes_that_race_for_leases_exactly_one_gets_each(tmp_path: Path, *, expired: bool) -> None:
    """Also where each takes over from a driver that is dead."""
    if expired:
        for step in range(40):
            (tmp_path / "leases" / str(step)).mkdir(parents=True)
            (tmp_path / "leases" / str(step) / "1").write_text('{"driver": "dead"}', encoding="utf-8")
    context = multiprocessing.get_context("fork")
    start, won = context.Barrier(4), context.Queue()
    racers = [context.Process(target=race, args=(str(tmp_path), f"racer-{n}", start, won)) for n in range(4)]
    for racer in racers:
        racer.start()
    taken = [step for _ in racers for step in won.get(timeout=60).split()]
    for racer in racers:
        racer.join()
    assert sorted(taken, key=int) == [str(step) for step in range(40)]


def test_that_a_run_of_a_step_began_is_known_to_others(driver: Callable[..., Leases]) -> None:
    first, second = driver("first"), driver("second")
    first.note_begun("d1", "run-1")
    assert second.had_begun("d1", "run-1")
    assert not second.had_begun("d1", "run-2")
    assert second.take("d1")
