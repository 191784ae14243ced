"""A sweep of a user's own questions from plan to page: domains, frequencies, blocks; nothing is run twice."""

from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from earnest.almanac import questions
from earnest.almanac.language import check_biography
from earnest.almanac.questions import STRATA
from earnest.cells import collect
from earnest.domains.reasons import LENGTH, RARITY, UNSEEN
from earnest.domains.run import find_losses, losses_of
from earnest.evaluation.nano import shipped_world
from earnest.losses import Loss
from earnest.plan import EVALUATE, Plan
from earnest.report.html import write_report
from earnest.steps import run_step
from earnest.store import Store
from earnest.sweep import prepare

pytestmark = pytest.mark.slow

SWEEP = """
name = "mine"
model = "nano:small"
store = "{folder}/store"
[calibration]
samples = 8
length = 64
[[compress]]
method = "magnitude"
sparsity = 0.3
[[compress]]
method = "wanda"
sparsity = 0.3
[[tasks]]
task = "closed_book"
data = "{folder}/data"
[[tasks]]
task = "biography"
limit = 24
[[localise]]
cells = ["magnitude"]
tasks = ["closed_book"]
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store]:
    """The almanac's questions as a user's Parquet file, and every step of a sweep over them run here."""
    folder = tmp_path_factory.mktemp("domains")
    made = questions.closed_book(shipped_world(), 153, seed=4, shots=0)
    people = {person.id: person for person in shipped_world().people}
    rows = [
        {
            "question": question.prompt.removeprefix("Q: ").removesuffix("\nA:"),
            "answers": [question.answer],
            "subject": question.domain,
            "frequency": 1e4 * people[question.person_id].popularity,
        }
        for question in made
    ]
    (folder / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "test.parquet")
    (folder / "mine.toml").write_text(SWEEP.format(folder=folder))
    ready = prepare(folder / "mine.toml")
    for step in ready.plan.steps.values():
        run_step(step, ready.store, "cpu", lambda _: None)
    return ready.plan, ready.store


@pytest.fixture(scope="module")
def losses(prepared: tuple[Plan, Store]) -> list[Loss]:
    return find_losses(*prepared)


def test_every_step_is_in_the_store_and_a_second_run_has_nothing_to_do(prepared: tuple[Plan, Store]) -> None:
    plan, store = prepared
    assert len([step for step in plan.steps.values() if step.restored]) == 2
    assert [step for step in plan.missing(store.digests(EVALUATE)) if step.kind == EVALUATE] == []


def test_a_checkpoint_scores_the_same_before_and_after_its_blocks_were_restored(prepared: tuple[Plan, Store]) -> None:
    plan, store = prepared
    (cell,) = (cell for cell in plan.cells if cell.restored)
    alone, restored = cell.evaluate["closed_book"], cell.restored["closed_book"][1]
    before = [store.read_file(EVALUATE, digest, "samples.parquet") for digest in (alone, restored)]
    for digest in (alone, restored):
        store.discard(EVALUATE, digest)
    for digest in (restored, alone):  # the other way round
        run_step(plan.steps[digest], store, "cpu", lambda _: None)
    assert [store.read_file(EVALUATE, digest, "samples.parquet") for digest in (alone, restored)] == before
    assert before[0] != before[1]


def test_a_users_domains_and_frequencies_are_the_ones_that_are_told(losses: list[Loss]) -> None:
    about_questions = [loss for loss in losses if loss.task == "closed_book"]
    assert len(about_questions) == 2
    for loss in about_questions:
        assert {group.name for group in loss.groups} == {"city", "year", "college", "employer", "field", "instrument"}
        assert sum(group.difference.n for group in loss.groups) == 150
        measured = {one.name for one in loss.reasons if one.effect is not None and one.over == "samples"}
        assert measured == {RARITY, UNSEEN}, "every answer of the almanac is one token, so length tells nothing"
        assert next(one for one in loss.reasons if one.name == LENGTH).adjusted == 1.0


def statements_about(attribute: str, store: Store, digest: str) -> dict[str, list[bool]]:
    """Of each biography that makes well-formed statements about an attribute, which of them are true."""
    world = shipped_world()
    asked = {question.id: question.person for question in questions.biographies(world, 24, 0)}
    content = BytesIO(store.read_file(EVALUATE, digest, "samples.parquet"))
    found: dict[str, list[bool]] = {}
    for row in pq.read_table(content, columns=["id", "prediction"]).to_pylist():
        for said in check_biography(row["prediction"], asked[row["id"]], world):
            if said.well_formed and said.attribute == attribute:
                found.setdefault(row["id"], []).append(said.true)
    return found


def test_a_biographys_domains_are_the_attributes_that_its_statements_are_about(
    prepared: tuple[Plan, Store], losses: list[Loss]
) -> None:
    plan, store = prepared
    told = {(loss.cell, group.name): group for loss in losses if loss.task == "biography" for group in loss.groups}
    assert {name for _, name in told} == {"city", "year", "college", "employer", "field", "instrument", *STRATA}
    dense = statements_about("city", store, plan.cells[0].evaluate["biography"])
    for cell in plan.cells[1:]:
        mine = statements_about("city", store, cell.evaluate["biography"])
        both = [name for name in dense if name in mine]
        group = told[cell.key, "city"]
        assert group.difference.n == len(both) > 0
        for value, said in ((group.dense, dense), (group.subject, mine)):
            true = [one for name in both for one in said[name]]
            assert value == pytest.approx(sum(true) / len(true))


def test_every_block_has_its_share_where_blocks_were_asked_for(losses: list[Loss]) -> None:
    by_blocks = [loss for loss in losses if loss.blocks]
    assert len(by_blocks) == 1
    assert [share.block for share in by_blocks[0].blocks] == [0, 1]


def test_the_page_tells_it_and_is_written_once(prepared: tuple[Plan, Store], tmp_path: Path) -> None:
    plan, store = prepared
    cells = collect(plan, store, {})
    page = write_report(cells, tmp_path, title="mine", store=store, losses=losses_of(plan, store))
    text = page.read_text()
    for part in ("Where it was lost", "What goes with the loss", "Where it comes back", "rarity of the fact"):
        assert part in text
    assert (tmp_path / "figures" / "blocks-closed_book-0-dark.svg").is_file()
    written = page.stat().st_mtime_ns
    write_report(cells, tmp_path, title="mine", store=store, losses=losses_of(plan, store))
    assert page.stat().st_mtime_ns == written
