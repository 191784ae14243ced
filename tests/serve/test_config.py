"""What operators write: every shipped config parses, and mistakes are refused in one clear line."""

import json
from pathlib import Path
from typing import Any

import pytest
from serve.config import Config, read_config
from serve.keys import digest
from serve.prompts import Prompts

from earnest.specs import UserError

CONFIGS = Path(__file__).parents[2] / "serve" / "configs"
SMALL = """
base = "a"
[models.a]
source = "nano:large"
[models.b]
source = "nano:small"
[pairs.one]
expert = "b"
"""


def read(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    return read_config(path)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_config_parses(path: Path) -> None:
    assert read_config(path).base


@pytest.mark.parametrize(("change", "said"), [
    ('base = "c"', "'c' is no model; the models are a, b"),
    ('[pairs.two]\nexpert = "c"', "pairs.two.expert 'c'"),
    ('[pairs.two]\nexpert = "b"\nantiexpert = "c"', "pairs.two.antiexpert 'c'"),
    ('[pairs.two]\nexpert = "b"\nalpha = nan', "finite"),
    ('[pairs.two]\nexpert = "b"\nalpha = "much"', "adaptive"),
    ('[pairs.two]\nexpert = "b"\nbeta = 1', "beta"),
    ('[models.c]\nsource = "nano:small"\ncores = [0]', 'set placement = "spread"'),
    ('[models.c]\nsource = "nano:small"\ncores = [-1]', "cores"),
    ('[batch]\nrows = 0', "rows = 0"),
    ('[limits]\ntimeout_s = inf', "finite"),
    ('[gateways]\nleast = 3', "least 3 is above most 2"),
    ('[traces]\nrate = 0.5', "say where to"),
    ('[[keys]]\nname = "x"\nsha256 = "short"', "sha256"),
    ('[[keys]]\nname = "x y"\nsha256 = "' + "0" * 64 + '"', "name"),
    ('[[keys]]\nname = "x"\nsha256 = "' + "0" * 64 + '"\npairs = ["two"]', "'two' is no pair"),
    ('[[keys]]\nname = "x"\nsha256 = "' + "0" * 64 + '"\nalphas = [2.0, 1.0]', "no range"),
    ('[[keys]]\nname = "x"\nsha256 = "' + "0" * 64 + '"\n[[keys]]\nname = "y"\nsha256 = "' + "0" * 64 + '"', "twice"),
])  # fmt: skip
def test_a_mistake_is_refused(tmp_path: Path, change: str, said: str) -> None:
    text = SMALL.replace('base = "a"', change) if change.startswith("base") else SMALL + change
    with pytest.raises(UserError) as refused:
        read(tmp_path, text)
    assert said in str(refused.value)


@pytest.mark.parametrize(("top", "said"), [
    ('host = "0.0.0.0"', "would serve anybody"),
    ('host = "192.168.0.1"', "would serve anybody"),
    ('name = "a"', "a name of its own"),
    ('default_pair = "two"', "'two' is no pair"),
    ('placement = "anywhere"', "placement"),
    ("port = 0", "port = 0"),
    ("nonsense = 1", "nonsense"),
])  # fmt: skip
def test_a_mistake_at_the_top_is_refused(tmp_path: Path, top: str, said: str) -> None:
    with pytest.raises(UserError, match=r"config\.toml") as refused:
        read(tmp_path, top + SMALL)
    assert said in str(refused.value)


def test_cores_are_for_models_on_the_cpu_in_processes_of_their_own(tmp_path: Path) -> None:
    spread = 'placement = "spread"' + SMALL + '[models.c]\nsource = "nano:small"\ncores = [0, 1]\n'
    assert read(tmp_path, spread).models["c"].cores == (0, 1)
    with pytest.raises(UserError, match=r"models\.c\.cores \[0, 1\]"):
        read(tmp_path, spread + 'device = "cuda"\n')


def test_a_host_for_others_is_served_with_keys_only(tmp_path: Path) -> None:
    keys = f'[[keys]]\nname = "x"\nsha256 = "{digest("k")}"'
    assert read(tmp_path, f'host = "0.0.0.0"{SMALL}{keys}').host == "0.0.0.0"


def test_no_file_and_no_toml_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such config"):
        read_config(tmp_path / "none.toml")
    with pytest.raises(UserError, match="not valid TOML"):
        read(tmp_path, "base = ")


def test_settings_change_what_they_name_and_nothing_else(tmp_path: Path) -> None:
    config = read(tmp_path, SMALL)
    changed = config.with_settings({"alphas": {"one": 0.5}, "limits": {"max_tokens": 7}})
    assert changed.pairs["one"].alpha == 0.5
    assert changed.limits.max_tokens == 7
    assert changed.with_settings({"alphas": {"one": 1.0}, "limits": config.limits.model_dump()}) == config
    assert config.with_settings({}) == config


@pytest.mark.parametrize("settings", [
    {"alphas": {"two": 1.0}}, {"alphas": {"one": float("nan")}}, {"base": "b"}, {"default_pair": "two"},
    {"keys": [{"name": "x"}]}, {"trace_rate": 0.5},
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="settings"):
        read(tmp_path, SMALL).with_settings(settings)


def test_models_and_templates_that_are_missing_are_said_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nano:huge"):
        Prompts(read(tmp_path, SMALL.replace("nano:small", "nano:huge")))
    with pytest.raises(UserError, match="no file and no built-in one"):
        Prompts(read(tmp_path, SMALL.replace('"nano:small"', '"nano:small"\nchat_template = "fancy"')))


def test_vocabularies_that_differ_are_said_with_the_first_token(tmp_path: Path, make_tiny: Any) -> None:
    path = make_tiny() / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["Ġtown"], vocabulary["Ġof"] = vocabulary["Ġof"], vocabulary["Ġtown"]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(UserError, match="different vocabularies") as refused:
        Prompts(read(tmp_path, SMALL.replace("nano:small", str(path.parent))))
    assert f"token 'Ġof' is {vocabulary['Ġtown']} and {vocabulary['Ġof']} (2 tokens differ)" in str(refused.value)
