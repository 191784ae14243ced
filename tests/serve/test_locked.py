"""A server that asks for keys never stops asking for them by itself, whatever becomes of its config."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve.app import Refused, build
from serve.config import Config, read_config
from serve.ensemble import Ensemble
from serve.gateway import make_app
from serve.keys import digest, new_key
from serve.operate import _taken_over

from earnest.specs import UserError

ROOT = Path(__file__).parents[2]
NANO = (ROOT / "serve" / "configs" / "nano.toml").read_text(encoding="utf-8")
KEY = new_key()
ENTRY = f'\n[[keys]]\nname = "only"\nsha256 = "{digest(KEY)}"\n'
LOCKED = "\n".join(line for line in NANO.splitlines() if not line.startswith("keyless")) + ENTRY


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "ensemble.toml"
    found.write_text(LOCKED, encoding="utf-8")
    return found


def removed(file: Path) -> None:
    file.write_text(LOCKED.replace(ENTRY, ""), encoding="utf-8")


def meant(file: Path) -> None:
    file.write_text(NANO, encoding="utf-8")


def emptied(file: Path) -> None:
    file.write_text("", encoding="utf-8")


def deleted(file: Path) -> None:
    file.unlink()


def unreadable(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def corrupt(file: Path) -> None:
    file.write_bytes(b"\xff\xfe" + os.urandom(64))


def empty_list(file: Path) -> None:
    file.write_text("keys = []\n" + LOCKED.replace(ENTRY, ""), encoding="utf-8")


def cut(file: Path) -> None:
    file.write_text(LOCKED[: LOCKED.index("sha256")], encoding="utf-8")


def nested(file: Path) -> None:
    file.write_text("keys = " + "[" * 100_000, encoding="utf-8")


@pytest.mark.parametrize("happens", [
    removed, meant, emptied, deleted, unreadable, a_folder, corrupt, empty_list, cut, nested,
])  # fmt: skip
def test_a_file_that_loses_its_keys_is_not_taken_over(
    happens: Callable[[Path], None], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed: list[Any] = []
    monkeypatch.setattr("serve.operate._deploy", lambda *given: deployed.append(given))
    began = read_config(file)
    happens(file)
    said = _taken_over(file, began, began, None)
    assert said.endswith("nothing was taken over")
    assert deployed == []


def test_another_key_is_taken_over(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed: list[Any] = []
    monkeypatch.setattr("serve.operate._deploy", lambda _, settings, direct: deployed.append(settings.keys))
    began, other = read_config(file), digest(new_key())
    file.write_text(LOCKED.replace(digest(KEY), other), encoding="utf-8")
    assert _taken_over(file, began, began, None).endswith("was taken over")
    assert [key.sha256 for (key,) in deployed] == [other]


def test_draining_is_taken_over_and_back(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed: list[Any] = []
    monkeypatch.setattr("serve.operate._deploy", lambda _, settings, *__: deployed.append(settings.draining))
    began = read_config(file)
    for text in ("draining = true\n" + LOCKED, LOCKED):
        file.write_text(text, encoding="utf-8")
        assert _taken_over(file, began, began, None).endswith("was taken over")
    assert deployed == [True, False]


@pytest.mark.parametrize("keys", [(), []])
def test_settings_take_no_last_key(file: Path, keys: Any) -> None:
    config = read_config(file)
    with pytest.raises(UserError, match="keep at least one key"):
        config.with_settings({"keys": keys})
    assert config.with_settings({"keys": None}).keys == config.with_settings({}).keys == config.keys


def test_a_running_app_stays_locked(config: Config, file: Path, ensemble: Ensemble) -> None:
    locked = read_config(file)
    app = make_app(locked, ensemble)
    with pytest.raises(UserError, match="keep at least one key"):
        app.state.configure(config)

    async def asked() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            headers = {"Authorization": f"Bearer {KEY}"}
            answers = [await client.get("/v1/models"), await client.get("/v1/models", headers=headers)]
            return [answer.status_code for answer in answers]

    assert asyncio.run(asked()) == [401, 200]


def test_a_restart_without_keys_is_refused_unless_it_is_meant(file: Path) -> None:
    removed(file)
    with pytest.raises(Refused, match="keyless = true"):
        build({"config": str(file)})
    file.write_text(NANO + ENTRY, encoding="utf-8")
    with pytest.raises(UserError, match="leave one of them out"):
        read_config(file)


@pytest.mark.parametrize(("peer", "host", "status"), [
    ("127.0.0.1", "127.0.0.1:8000", 200), ("::1", "[::1]:8000", 200), ("::ffff:127.0.0.1", "localhost", 200),
    ("192.0.2.7", "127.0.0.1", 403), ("127.0.0.1", "example.org", 403), ("2001:db8::1", "localhost", 403),
    ("127.0.0.1", "[::1", 403),
])  # fmt: skip
def test_without_keys_this_machine_is_served_whatever_a_client_calls_it(
    config: Config, ensemble: Ensemble, peer: str, host: str, status: int
) -> None:
    async def asked() -> int:
        transport = httpx.ASGITransport(make_app(config, ensemble), client=(peer, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return (await client.get("/v1/models", headers={"Host": host})).status_code

    assert asyncio.run(asked()) == status
