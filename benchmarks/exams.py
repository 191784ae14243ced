"""The same questions for two examiners: files that both read, our task and lm-eval's own, and whether answers agree.

The model is nano:large in float32, its context stretched, because five shots of MMLU are long in its small vocabulary.
What it answers there is nonsense, which takes as long and must be the same nonsense in both. In its vocabulary one of
the four letters is two tokens, and lm-eval then reads each question twice; so MMLU is asked once more of the same
weights under a vocabulary trained on these questions, in which every letter is one token, as in large models'.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from earnest.almanac import questions
from earnest.almanac.tokenizer import save_tokenizer, train_tokenizer
from earnest.almanac.world import World
from earnest.evaluation.tasks.mmlu import mmlu_items
from earnest.models.loading import load, load_tokenizer
from earnest.models.source import resolve
from earnest.specs import MMLU

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
CONTEXT = 4096
SUBJECTS = ("high_school_psychology", "miscellaneous", "philosophy")
"""Large ones: 34 to 86 questions in MMLU's validation split, where a subject of the test split has 246."""
SHOTS = 5
CLOSED_BOOK, GSM8K = 200, 24
LIKELIHOOD_TOLERANCE = 1e-3
"""In nats: how far sums of log-probabilities may lie apart, by the order of the same additions."""


@dataclass(frozen=True)
class Exam:
    """Questions as our task reads them from `data`, and as lm-eval's configs do; `batches` are the peer's to try.

    `model` is the folder of the model that is asked.
    """

    name: str
    model: str
    task: Mapping[str, Any]
    data: str
    peer: Sequence[Mapping[str, Any]]
    batches: Sequence[int]
    column: str


def exams(folder: Path) -> Iterator[Exam]:
    """All for which there are questions; their files lie in `folder`."""
    there = (SHARED / "mmlu").is_dir()
    if not there:
        print(f"{SHARED}/mmlu is absent: the almanac's questions are asked in MMLU's form")
    own = _stretched_model(folder / "model")
    mmlu = _mmlu(folder / "mmlu", own, _real_mmlu() if there else _almanac_mmlu())
    yield mmlu
    yield replace(mmlu, name=f"{mmlu.name}, letters of one token", model=_with_letters(own, mmlu))
    yield _closed_book(folder / "closed_book", own)
    if (SHARED / "gsm8k_test.parquet").is_file():
        yield _gsm8k(folder / "gsm8k", own)
    else:
        print(f"{SHARED}/gsm8k_test.parquet is absent: gsm8k is left out")


def _stretched_model(folder: Path) -> str:
    """nano:large with room for `CONTEXT` tokens, saved in float32."""
    loaded = load(resolve("nano:large"), dtype="float32")
    loaded.model.config.max_position_embeddings = CONTEXT
    loaded.tokenizer.model_max_length = CONTEXT
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return str(folder)


def _with_letters(model: str, exam: Exam) -> str:
    """The same weights under a vocabulary in which every letter is one token."""
    folder = Path(f"{model}-letters")
    shutil.copytree(model, folder)
    items = mmlu_items(MMLU.model_validate(exam.task), exam.data, "validation")
    blocks = [f"{item.prompt}{item.options[item.answer]}" for item in items]
    texts = sorted({block for text in blocks for block in text.split("\n\n")})  # each question once, as each shot
    save_tokenizer(train_tokenizer(texts, load_tokenizer(folder, "").vocab_size), folder, CONTEXT)
    tokenizer = load_tokenizer(folder, "")
    assert all(len(tokenizer.tokenize(f" {letter}")) == 1 for letter in "ABCD")
    return str(folder)


def _real_mmlu() -> dict[str, pa.Table]:
    found = {split: pq.read_table(SHARED / "mmlu" / f"{split}.parquet") for split in ("dev", "validation")}
    return {split: table.filter(pc.is_in(table["subject"], pa.array(SUBJECTS))) for split, table in found.items()}


def _almanac_mmlu() -> dict[str, pa.Table]:
    """The almanac's multiple choice, an attribute in the place of a subject."""
    made = questions.multiple_choice(World.shipped(), 200, 0, shots=0)
    rows: dict[str, list[dict[str, Any]]] = {"dev": [], "validation": []}
    for one in sorted(made, key=lambda question: question.domain):
        asked = one.prompt.removeprefix("Q: ").removesuffix("\nA:")
        shown = sum(row["subject"] == one.domain for row in rows["dev"])
        rows["dev" if shown < SHOTS else "validation"].append(
            {"subject": one.domain, "question": asked, "choices": list(one.choices), "answer": one.answer_index}
        )
    return {split: pa.Table.from_pylist(of) for split, of in rows.items()}


def _mmlu(folder: Path, model: str, tables: Mapping[str, pa.Table]) -> Exam:
    """Ours reads one folder; lm-eval has a task per subject, with files of its own."""
    peer = []
    for split, table in tables.items():
        _write(table, folder / f"{split}.parquet")
    for subject in sorted(set(tables["validation"]["subject"].to_pylist())):
        files = {}
        for split, table in tables.items():
            path = folder / "by_subject" / f"{subject}-{split}.parquet"
            files["test" if split == "validation" else split] = str(path)
            _write(table.filter(pc.equal(table["subject"], subject)), path)
        words = subject.replace("_", " ")
        description = f"The following are multiple choice questions (with answers) about {words}.\n\n"
        changes = {"task": subject, "description": description, "num_fewshot": SHOTS, **_local(files)}
        peer.append({"shipped": "mmlu/default/_default_template_yaml", "changes": changes})
    task = {"task": "mmlu", "split": "validation", "data": str(folder)}
    return Exam(f"mmlu, {SHOTS} shots", model, task, str(folder), peer, (1, 4, 16), "log_likelihoods")


def _closed_book(folder: Path, model: str) -> Exam:
    """Short answers; the first rows are shown before every question."""
    made = questions.zero_shot(World.shipped(), CLOSED_BOOK + SHOTS, 0)
    rows = [
        {"question": one.prompt.removeprefix("Q: ").removesuffix("\nA:"), "answers": [one.answer], "answer": one.answer}
        for one in made
    ]
    whole = pa.Table.from_pylist(rows)
    _write(whole, folder / "test.parquet")
    files = {"train": str(folder / "peer" / "train.parquet"), "test": str(folder / "peer" / "test.parquet")}
    _write(whole.slice(0, SHOTS), Path(files["train"]))
    _write(whole.slice(SHOTS), Path(files["test"]))
    task = {"task": "closed_book", "split": "test", "shots": SHOTS, "max_tokens": 24, "data": str(folder)}
    changes = {
        "task": "closed_book", "output_type": "generate_until", "test_split": "test", "fewshot_split": "train",
        "fewshot_config": {"sampler": "first_n"}, "num_fewshot": SHOTS,
        "doc_to_text": "Q: {{question}}\nA:", "doc_to_target": "{{answer}}", "metric_list": [{"metric": "exact_match"}],
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 24, "do_sample": False}, **_local(files),
    }  # fmt: skip
    return Exam(
        f"closed book, {SHOTS} shots", model, task, str(folder), [{"changes": changes}], (8, 32, 128), "prediction"
    )


def _gsm8k(folder: Path, model: str) -> Exam:
    """Up to 256 tokens after shots of its own for every question, by lm-eval's own file."""
    table = pq.read_table(SHARED / "gsm8k_test.parquet", columns=["question", "answer"])
    worked = [f"The result is {number}.\n#### {number}" for number in table["answer"].to_pylist()]
    table = table.set_column(1, "answer", pa.array(worked))
    files = {split: str(folder / f"{split}.parquet") for split in ("train", "test")}
    _write(table.slice(GSM8K), Path(files["train"]))
    _write(table.slice(0, GSM8K), Path(files["test"]))
    peer = {"shipped": "gsm8k/gsm8k.yaml", "changes": {"num_fewshot": SHOTS, **_local(files)}}
    task = {"task": "gsm8k", "split": "test", "shots": SHOTS, "data": str(folder)}
    return Exam(f"gsm8k, {SHOTS} shots", model, task, str(folder), [peer], (8, 24), "text")


def _local(files: Mapping[str, str]) -> dict[str, Any]:
    return {"dataset_path": "parquet", "dataset_name": None, "dataset_kwargs": {"data_files": dict(files)}}


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def agree(exam: Exam, samples: pa.Table, prompts: Sequence[str], answers: Sequence[Any]) -> None:
    """See that both asked the same and got the same: prompts, texts, likeliest options.

    Raises:
        AssertionError: they did not.
    """
    ours = dict(zip(samples["prompt_hash"].to_pylist(), samples[exam.column].to_pylist(), strict=True))
    assert len(answers) == samples.num_rows, f"{exam.name}: lm-eval asked {len(answers)}, we {samples.num_rows}"
    for prompt, theirs in zip(prompts, answers, strict=True):
        mine = ours.get(hashlib.sha256(prompt.encode()).hexdigest()[:16])
        assert mine is not None, f"{exam.name}: we did not ask {prompt[-80:]!r}"
        if isinstance(theirs, str):
            assert mine.strip() == theirs.strip(), f"{exam.name}: we read {mine!r}, lm-eval {theirs!r}"
        else:
            apart = max(abs(a - b) for a, b in zip(mine, theirs, strict=True))
            assert apart < LIKELIHOOD_TOLERANCE, f"{exam.name}: log-likelihoods are {apart} nats apart"
            assert mine.index(max(mine)) == theirs.index(max(theirs)), f"{exam.name}: other answers to {prompt[-80:]!r}"
