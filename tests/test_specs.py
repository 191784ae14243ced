"""What a user writes is checked, refused with one clear line, or understood."""

from pathlib import Path

import pytest

from earnest.specs import GPTQ, NM, Sweep, Unstructured, UserError, Wanda, expand, read_method, read_sweep, read_task

MINIMAL = {"name": "s", "model": "nano:large", "compress": [], "tasks": [{"task": "closed_book"}]}


def test_sparsity_and_pattern_are_two_ways_to_write_one_thing() -> None:
    assert read_method({"method": "wanda", "sparsity": 0.5}) == Wanda(pattern=Unstructured(sparsity=0.5))
    assert read_method({"method": "wanda", "pattern": "2:4"}) == Wanda(pattern=NM(n=2, m=4))


def test_a_spec_survives_its_own_json() -> None:
    for fields in (
        {"method": "wanda", "sparsity": 0.3},
        {"method": "sparsegpt", "pattern": "4:8"},
        {"method": "gptq", "bits": 4},
    ):
        method = read_method(fields)
        assert read_method(method.model_dump(mode="json")) == method


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "wanda", "sparsity": 1.2}, ["sparsity", "1.2", "less than 1"]),
        ({"method": "wanda", "sparsity": 0.0}, ["sparsity", "greater than 0"]),
        ({"method": "wanda", "pattern": "3:2"}, ["3:2", "N must be below M"]),
        ({"method": "wanda", "pattern": "two:four"}, ["two:four", "N:M"]),
        ({"method": "wanda"}, ["exactly one of sparsity"]),
        ({"method": "wanda", "sparsity": 0.5, "pattern": "2:4"}, ["exactly one of sparsity"]),
        ({"method": "gptq", "bits": 9}, ["bits", "9", "less than or equal to 8"]),
        ({"method": "gptq", "bits": 4, "group_size": 0}, ["group_size 0"]),
        ({"method": "gptq", "bits": 4, "grp": 32}, ["grp", "Extra inputs"]),
        ({"method": "gtpq", "bits": 4}, ["gtpq", "gptq"]),
        ({"method": "sparsegpt", "pattern": "2:4", "act_order": True}, ["act_order", "N:M"]),
        ({"method": "sparsegpt", "sparsity": 0.5, "group_size": 32}, ["bits"]),
        ({"method": "gptq", "bits": 4, "damping": float("inf")}, ["damping", "finite"]),
        ({"method": "wanda", "pattern": "²:4"}, ["²:4", "N:M"]),
        ({"method": "gptq", "bits": 4, "group_size": -1, "static_groups": True}, ["static_groups", "group_size"]),
    ],
)
def test_a_mistake_in_a_method_is_named_with_its_rule(fields: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        read_method(fields)
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_task_is_told_the_known_ones() -> None:
    with pytest.raises(UserError, match="closed_book"):
        read_task({"task": "closedbook"})


def test_lists_in_a_compress_entry_are_a_grid_and_patterns_stand_beside_sparsities() -> None:
    entries = expand({"method": "wanda", "sparsity": [0.2, 0.5], "pattern": ["2:4"]})
    assert entries == [
        {"method": "wanda", "sparsity": 0.2},
        {"method": "wanda", "sparsity": 0.5},
        {"method": "wanda", "pattern": "2:4"},
    ]
    assert len(expand({"method": "rtn", "bits": [8, 4], "group_size": [32, 64]})) == 4


def test_a_sweep_refuses_two_tasks_of_one_name() -> None:
    with pytest.raises(ValueError, match="stands twice"):
        Sweep.model_validate({**MINIMAL, "tasks": [{"task": "closed_book"}, {"task": "closed_book", "shots": 0}]})


def test_a_task_may_be_given_a_name_of_its_own() -> None:
    tasks = [{"task": "closed_book"}, {"task": "closed_book", "shots": 0, "name": "zero_shot"}]
    assert [t.label for t in Sweep.model_validate({**MINIMAL, "tasks": tasks}).tasks] == ["closed_book", "zero_shot"]


def test_a_fraction_of_more_than_one_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number"):
        Sweep.model_validate({**MINIMAL, "cluster": {"gpus_per_worker": 1.5}})


def test_a_sweep_file_that_is_not_there_or_not_toml_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such sweep file"):
        read_sweep(tmp_path / "absent.toml")
    (tmp_path / "broken.toml").write_text("name = ")
    with pytest.raises(UserError, match="not valid TOML"):
        read_sweep(tmp_path / "broken.toml")


def test_nominal_is_what_a_reader_expects() -> None:
    assert Wanda.model_validate({"sparsity": 0.3}).nominal == "30%"
    assert Wanda.model_validate({"pattern": "2:4"}).nominal == "2:4"
    assert GPTQ(bits=4, group_size=32).nominal == "4 bits g32"
    assert GPTQ(bits=4, group_size=-1).nominal == "4 bits"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": []}, "seeds"),
        ({"seeds": [-1]}, "greater than or equal to 0"),
        ({"compress": [{"method": "wanda", "sparsity": []}]}, "asks for nothing"),
        ({"compress": "wanda"}, "compress"),
        ({"model": ""}, "model"),
        ({"tasks": [{"task": "closed_book", "name": "compress"}]}, "taken"),
        ({"proxy": [{"name": "p", "expert": "e", "alpha": []}]}, "alpha"),
        ({"proxy": [{"name": "p", "expert": "e", "bases": []}]}, "steers nothing"),
        ({"proxy": [{"name": "p", "expert": "e", "alpha": [1, float("inf")]}]}, "alpha inf: write a finite number"),
        ({"proxy": [{"name": "p", "expert": "e", "alpha": "adaptively"}]}, "adaptive"),
        ({"proxy": [{"name": "p", "expert": "e", "compressed": ["antiexpert"]}]}, "the pair has no antiexpert"),
        ({"proxy": [{"name": "p", "expert": "e"}, {"name": "p", "expert": "f"}]}, "'p' names e and f"),
    ],
)
def test_a_sweep_that_would_silently_do_less_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Sweep.model_validate({**MINIMAL, **change})


def test_a_pairs_alpha_is_a_number_a_word_or_a_list_of_these() -> None:
    def alphas(alpha: object) -> tuple[object, ...]:
        sweep = Sweep.model_validate({**MINIMAL, "proxy": [{"name": "p", "expert": "e", "alpha": alpha}]})
        return sweep.proxy[0].alpha

    assert alphas(1) == (1.0,)
    assert alphas("adaptive") == ("adaptive",)
    assert alphas([0, 0.5, 0.5, "adaptive"]) == (0.0, 0.5, "adaptive")


def test_a_sweep_names_every_model_once() -> None:
    pair = {"name": "p", "expert": "e", "antiexpert": "a", "target": "t"}
    tasks = [{"task": "closed_book", "data": "nano"}]
    sweep = Sweep.model_validate(
        {**MINIMAL, "tasks": tasks, "references": ["a", "m"], "proxy": [pair, {**pair, "alpha": 2}]}
    )
    assert sweep.models == ("nano:large", "a", "m", "e", "t")


def test_a_sweep_without_compression_may_steer_but_must_do_something() -> None:
    alone = {key: value for key, value in MINIMAL.items() if key != "compress"}
    assert Sweep.model_validate({**alone, "proxy": [{"name": "p", "expert": "e"}]}).compress == ()
    with pytest.raises(ValueError, match=r"needs \[\[compress\]\] or \[\[proxy\]\] entries"):
        Sweep.model_validate(alone)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"compress": [{"method": "wanda", "sparsity": 0.5}]},
            r"calibration: no data are named for /models/real;.*\nset",
        ),
        ({"tasks": [{"task": "closed_book"}]}, r"task closed_book: no data are named for /models/real"),
        ({"tasks": [{"task": "perplexity"}], "model": "nano:large", "references": ["/models/real"]}, "task perplexity"),
        ({"tasks": [{"task": "biography"}]}, "task biography: no data are named"),
        ({"tasks": [{"task": "alpaca_farm", "data": "d.jsonl"}]}, "task alpaca_farm: judges not named"),
        ({"tasks": [{"task": "truthful_qa_open", "data": "d"}]}, "task truthful_qa_open: true_judge not named"),
    ],
)
def test_the_almanac_is_the_default_for_its_own_family_alone(changes: dict[str, object], message: str) -> None:
    named = {**MINIMAL, "model": "/models/real", "tasks": [{"task": "closed_book", "data": "nano"}]}
    Sweep.model_validate(named).check_data_are_named()
    with pytest.raises(UserError, match=message):
        Sweep.model_validate({**named, **changes}).check_data_are_named()
