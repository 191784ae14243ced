"""Our runs in one experiment: found by sweep and store, at most one current run per key, nothing of others touched.

A run's key is set in the very call that makes it, so a run whose making was answered into the void is found again.
What a newer run replaces stays, tagged as superseded. Deleted is only a second run of one key that says nothing which
the first does not say too: what a repeated call, or a second sender, left behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from earnest.tracking.entries import Entry

ENTRY_TAG, CONTENT_TAG, KEY_TAG = "earnest.entry", "earnest.content", "earnest.key"
STORE_TAG, SWEEP_TAG, NOTED_TAG = "earnest.store", "earnest.sweep", "earnest.noted"
STATE_TAG, SUPERSEDED_BY_TAG, CURRENT, SUPERSEDED = "earnest.state", "earnest.superseded_by", "current", "superseded"
PAGE = 1000

Owner = tuple[str, str]  # the store's identity, and the sweep's name


def identity_tags(entry: Entry) -> dict[str, str]:
    """The tags that find an entry's run again."""
    return {ENTRY_TAG: entry.name, KEY_TAG: entry.key, STORE_TAG: entry.store, SWEEP_TAG: entry.sweep}


def is_complete(run: Any, content: str | None = None) -> bool:
    """Whether a run is closed and holds all of an entry; of that with this content where one is given."""
    said = run.data.tags.get(CONTENT_TAG)
    return run.info.status != "RUNNING" and said is not None and content in (None, said)


def is_superseded(run: Any) -> bool:
    """Whether a newer run took a run's place."""
    return bool(run.data.tags.get(STATE_TAG) == SUPERSEDED)


class OwnRuns:
    """The runs of the sweeps that are spoken of, in one experiment.

    Args:
        client: an MLflow client.
        experiment_id: the experiment's.
    """

    def __init__(self, client: Any, experiment_id: str) -> None:
        self._client, self._id = client, experiment_id
        self._by_owner: dict[Owner, dict[str, list[Any]]] = {}
        self._made: set[Owner] = set()

    def of(self, entry: Entry) -> list[Any]:
        """All runs with the entry's key, the best first."""
        owner = (entry.store, entry.sweep)
        if owner not in self._by_owner:
            self._by_owner[owner] = self._find(owner)
        return self._by_owner[owner].get(entry.key, [])

    def forget(self) -> None:
        """Look again: somebody else may have changed something."""
        self._by_owner.clear()

    def note_made(self, entry: Entry) -> None:
        """Remember that runs were made, which may have become two."""
        self._made.add((entry.store, entry.sweep))

    def make_current(self, run: Any, others: Iterable[Any]) -> bool:
        """Have one run stand for its key. Returns whether that changed anything; torn runs are left to `settle`."""
        replaced = [other for other in others if other is not run and is_complete(other) and not is_superseded(other)]
        for other in replaced:
            self.supersede(other, str(run.info.run_id))
        if is_superseded(run):
            self._client.delete_tag(run.info.run_id, SUPERSEDED_BY_TAG)
            self._client.set_tag(run.info.run_id, STATE_TAG, CURRENT)
            return True
        return bool(replaced)

    def supersede(self, run: Any, by: str) -> None:
        """Mark a run whose place another took."""
        self._client.set_tag(run.info.run_id, SUPERSEDED_BY_TAG, by)
        self._client.set_tag(run.info.run_id, STATE_TAG, SUPERSEDED)

    def settle(self) -> None:
        """Leave one current run per key, wherever runs were made."""
        seen = {owner for owner, runs in self._by_owner.items() if any(map(_is_twice, runs.values()))}
        for owner in self._made | seen:
            for runs in self._find(owner).values():
                if _is_twice(runs):
                    self._settle_twins(*(run for run in runs if not is_superseded(run)))
        self._made.clear()
        self.forget()

    def retire(self, owner: Owner, kept: set[str]) -> int:
        """Mark as superseded the current runs of a sweep whose keys it no longer has. Returns how many."""
        gone = [run for key, runs in self._find(owner).items() if key not in kept for run in runs]
        left = [run for run in gone if not is_superseded(run)]
        for run in left:
            self.supersede(run, "nothing: the sweep no longer has it")
        return len(left)

    def _settle_twins(self, survivor: Any, *others: Any) -> None:
        survivor_id = survivor.info.run_id
        for other in others:
            if _says_nothing_more(other, survivor):
                self._client.delete_run(other.info.run_id)
                if self._client.get_run(survivor_id).info.lifecycle_stage != "active":  # another settled it otherwise
                    self._client.restore_run(survivor_id)
            else:
                self.supersede(other, str(survivor_id))

    def _find(self, owner: Owner) -> dict[str, list[Any]]:
        store, sweep = owner
        mine = f"tags.`{STORE_TAG}` = '{store}' AND tags.`{SWEEP_TAG}` = '{sweep}'"
        found: dict[str, list[Any]] = {}
        token = None
        while True:
            page = self._client.search_runs([self._id], mine, max_results=PAGE, page_token=token)
            for run in page:
                if KEY_TAG in run.data.tags:
                    found.setdefault(run.data.tags[KEY_TAG], []).append(run)
            token = page.token
            if not token:
                return {key: sorted(runs, key=_rank, reverse=True) for key, runs in found.items()}


def _is_twice(runs: Iterable[Any]) -> bool:
    return sum(not is_superseded(run) for run in runs) > 1


def _rank(run: Any) -> tuple[bool, bool, int, int, str]:
    """What makes a run the better one of two: current, complete, newer, fuller; every sender finds the same."""
    tags: Mapping[str, str] = run.data.tags
    noted = tags.get(NOTED_TAG, "0")
    said = len(run.data.metrics) + len(run.data.params)
    return not is_superseded(run), is_complete(run), int(noted), said, str(run.info.run_id)


def _says_nothing_more(run: Any, survivor: Any) -> bool:
    said = run.data.tags.get(CONTENT_TAG)
    if said is not None:
        return bool(said == survivor.data.tags.get(CONTENT_TAG))
    return bool(run.data.metrics.items() <= survivor.data.metrics.items()) and bool(
        run.data.params.items() <= survivor.data.params.items()
    )
