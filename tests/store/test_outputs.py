"""Outputs appear whole or not at all, and changed bytes are noticed."""

import os
from pathlib import Path

import pytest

from earnest.specs import UserError
from earnest.store import CorruptOutputError, Store


@pytest.fixture(params=["local", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A folder, and fsspec's in-memory filesystem, which like a bucket has no rename."""
    root = str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}"
    return Store(root, cache=tmp_path / "cache")


def publish(store: Store, digest: str, text: str = "hello") -> None:
    with store.publish("compress", digest, {"a": 1}, {"seconds": 1.5}) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file.txt").write_text(text)


def test_a_published_step_is_found_read_and_listed(store: Store) -> None:
    publish(store, "d1")
    assert store.has("compress", "d1")
    assert not store.has("compress", "d2")
    assert store.digests("compress") == {"d1"}
    assert (store.fetch("compress", "d1") / "deep" / "file.txt").read_text() == "hello"
    assert store.read_step("compress", "d1")["spec"] == {"a": 1}
    assert store.read_run("compress", "d1") == {"seconds": 1.5}


def fail_halfway(store: Store) -> None:
    with store.publish("compress", "d1", {}) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError


def test_a_step_that_raised_leaves_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        fail_halfway(store)
    assert not store.has("compress", "d1")
    assert list(tmp_path.rglob("half")) == []


def test_a_step_published_twice_keeps_the_first(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    publish(store, "d1", "first")
    publish(store, "d1", "second")
    assert (store.fetch("compress", "d1") / "deep" / "file.txt").read_text() == "first"


def test_an_unfinished_step_cannot_be_fetched(store: Store) -> None:
    with pytest.raises(FileNotFoundError, match="d9 is not finished"):
        store.fetch("compress", "d9")


def test_a_discarded_step_is_gone(store: Store) -> None:
    publish(store, "d1")
    store.discard("compress", "d1")
    assert not store.has("compress", "d1")


def test_what_a_killed_writer_left_is_cleared_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    abandoned = tmp_path / "compress" / ".d0-killed"
    abandoned.mkdir(parents=True)
    (abandoned / "half.bin").write_bytes(b"half")
    with store.publish("compress", "d1", {}) as folder:
        (folder / "file.txt").write_text("whole")
        Store(str(tmp_path)).clear_abandoned("compress")
    assert not abandoned.exists()
    assert store.has("compress", "d1")


def test_changed_bytes_are_noticed_on_reading(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    publish(store, "d1")
    (tmp_path / "compress" / "d1" / "deep" / "file.txt").write_text("hellp")
    with pytest.raises(CorruptOutputError, match=r"deep/file\.txt"):
        store.fetch("compress", "d1")


def test_the_circumstances_are_not_part_of_what_is_promised(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    publish(store, "d1")
    (tmp_path / "compress" / "d1" / "run.json").write_text("{}")
    store.fetch("compress", "d1")


def test_a_store_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        Store(str(tmp_path / "file" / "store"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_store_is_refused_at_once(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"):
        Store(str(tmp_path / "store"))


def test_a_path_with_wildcards_in_its_name_is_a_path_like_any_other(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "a[b]*"))
    publish(store, "d1")
    assert store.digests("compress") == {"d1"}


def test_a_scheme_that_nobody_reads_is_refused() -> None:
    with pytest.raises(UserError, match="zork"):
        Store("zork://x")


@pytest.mark.parametrize("root", ["folder", "memory://failures"])
def test_why_steps_failed_is_kept_until_they_are_tried_again(root: str, tmp_path: Path) -> None:
    store = Store(root if "://" in root else str(tmp_path / root), tmp_path / "cache")
    assert store.failures() == {}
    store.note_failure("d1", "out of memory")
    store.note_failure("d2", "no such column – näme")
    assert store.failures() == {"d1": "out of memory", "d2": "no such column – näme"}
    store.forget_failures(["d1", "d3"])
    assert store.failures() == {"d2": "no such column – näme"}
