"""The link that the command prints carries the key, and the page takes it out of the address."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serve.config import Config
from serve.ensemble import Ensemble
from serve.gateway import make_app
from serve.keys import digest, new_key
from serve.operate import announce

from browser import Browser

KEY = new_key()


def test_the_command_prints_a_link_with_the_key_it_made(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    announce(config, KEY)
    address, key, link = capsys.readouterr().out.splitlines()
    assert address.split()[-1] == "http://127.0.0.1:8000"
    assert key.split()[-1] == KEY
    assert link.split()[-1] == f"http://127.0.0.1:8000/#key={KEY}"
    announce(config)
    assert "key" not in capsys.readouterr().out


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as found:
        yield found


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_the_page_takes_the_key_from_its_link(
    config: Config, ensemble: Ensemble, serving: Callable[..., Any], browser: Browser
) -> None:
    keyed = config.with_settings({"keys": [{"name": "demo", "sha256": digest(KEY)}]})
    with serving(make_app(keyed, ensemble)) as url:
        browser.open(f"{url}/#key={KEY}")
        browser.until("document.getElementById('key').value !== ''")
        assert browser.see("document.getElementById('key').value") == KEY
        assert browser.see("location.href") == f"{url}/"
        browser.until("document.querySelectorAll('#pair option').length > 0")
