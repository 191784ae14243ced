"""A damaged output counts as absent, is told in one line, and makes room for one that is whole."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from earnest.store import CorruptOutputError, Store


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def forget_files(path: Path) -> None:
    path.write_text(json.dumps({"kind": "compress", "digest": "d1", "spec": {}}), encoding="utf-8")


def be_of_another(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace('"d1"', '"d2"'), encoding="utf-8")


DAMAGES: list[tuple[str, Callable[[Path], None], str]] = [
    ("deep/weights.bin", truncate, "deep/weights.bin has 2 bytes instead of 5"),
    ("deep/weights.bin", flip, "the bytes of deep/weights.bin are not the ones published"),
    ("deep/weights.bin", empty, "deep/weights.bin has 0 bytes instead of 5"),
    ("deep/weights.bin", Path.unlink, "deep/weights.bin is missing"),
    ("step.json", truncate, "step.json is not as published"),
    ("step.json", empty, "step.json is not as published"),
    ("step.json", forget_files, "step.json is not as published"),
    ("step.json", be_of_another, "step.json is not as published"),
    ("step.json", lambda path: path.write_text("[1]", encoding="utf-8"), "step.json is not as published"),
    ("step.json", lambda path: path.write_bytes(b"\xff\xfe"), "step.json is not as published"),
    ("step.json", Path.unlink, "step.json is missing"),
]


def publish(store: Store) -> Path:
    with store.publish("compress", "d1", {"a": 1}, {"seconds": 1.5}) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "weights.bin").write_text("hello")
    return Path(store.root) / "compress" / "d1"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("name", "harm", "said"), DAMAGES)
def test_a_damaged_output_counts_as_absent_and_is_replaced(
    tmp_path: Path, name: str, harm: Callable[[Path], None], said: str
) -> None:
    store = Store(str(tmp_path))
    folder = publish(store)
    before = files(folder)
    assert store.intact("compress", ["d1"]) == {"d1"}
    harm(folder / name)
    assert not store.has("compress", "d1")
    assert store.intact("compress", ["d1"]) == set()
    assert store.damaged("compress", ["d1", "d2"]) == {"d1": said}
    with pytest.raises((CorruptOutputError, FileNotFoundError)):
        store.fetch("compress", "d1")
    publish(store)
    assert store.has("compress", "d1")
    assert store.damaged("compress", ["d1"]) == {}
    assert files(folder) == before


def test_what_was_found_whole_is_not_hashed_again_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("earnest.store.inspection.WORTH_REMEMBERING", 1)
    folder = publish(Store(str(tmp_path / "store"), cache=tmp_path / "cache"))
    hashed: list[str] = []

    def of_another_process() -> Store:
        store = Store(str(tmp_path / "store"), cache=tmp_path / "cache")
        real = store._sha256
        monkeypatch.setattr(store, "_sha256", lambda *step: (hashed.append(step[-1]), real(*step))[1])
        return store

    assert [of_another_process().has("compress", "d1") for _ in range(3)] == [True] * 3
    assert hashed == ["deep/weights.bin"]
    flip(folder / "deep" / "weights.bin")
    assert not of_another_process().has("compress", "d1")


def test_circumstances_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    folder = publish(store)
    for content in ("", "[]", "{"):
        (folder / "run.json").write_text(content, encoding="utf-8")
        assert store.read_run("compress", "d1") == {}
    assert store.has("compress", "d1")


def test_a_file_that_the_step_never_had_is_no_damage(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    publish(store)
    with pytest.raises(FileNotFoundError, match=r"has no texts\.parquet"):
        store.read_file("compress", "d1", "texts.parquet")


def test_a_damaged_copy_of_a_buckets_output_is_fetched_again(tmp_path: Path) -> None:
    store = Store(f"memory://{tmp_path.name}", cache=tmp_path / "cache")
    with store.publish("compress", "d1", {}) as folder:
        (folder / "weights.bin").write_text("hello")
    copy = store.fetch("compress", "d1") / "weights.bin"
    copy.write_text("hallo", encoding="utf-8")
    assert (store.fetch("compress", "d1") / "weights.bin").read_text(encoding="utf-8") == "hello"


def test_a_store_is_verified_byte_by_byte_whatever_was_found_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from earnest.cli import app

    folder = publish(Store(str(tmp_path)))
    app(["verify", str(tmp_path)], standalone_mode=False)
    assert "1 of 1 outputs are as published" in capsys.readouterr().out
    flip(folder / "deep" / "weights.bin")
    (tmp_path / "evaluate" / "d2").mkdir(parents=True)
    assert app(["verify", str(tmp_path)], standalone_mode=False) == 1
    said = capsys.readouterr()
    assert "0 of 2 outputs" in said.out
    assert "evaluate/d2: step.json is missing" in said.err
    assert "compress/d1: the bytes of deep/weights.bin are not the ones published" in said.err
