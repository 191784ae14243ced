"""The tracker: says each cell once to MLflow, and keeps what could not be said for later."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from earnest.records import CellRecord
from earnest.specs import UserError
from earnest.store.identity import store_identity
from earnest.tracking.curves import CURVE_TAG, curve_entries
from earnest.tracking.database import UnusableDatabaseError, ensure_database
from earnest.tracking.entries import Artifact, Checkpoint, Entry, base_model, cell_entry
from earnest.tracking.outbox import Outbox, Pending
from earnest.tracking.session import Session, quiet_environment

_UNREACHABLE = (
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "REQUEST_LIMIT_EXCEEDED",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
)
# A server that answers, but not always, is asked again after so many seconds; one that never answered is not.
_PAUSES_S = (1.0, 2.0, 4.0)

SCHEMES = ("sqlite", "postgresql", "mysql", "http", "https", "file")
CURVES_SUFFIX = " curves"
MAX_REASON = 200

Files = Mapping[str, Sequence[Artifact | tuple[Path, str]]]


class Tracker:
    """Records the cells of sweeps in one MLflow experiment, and their curves in another beside it.

    Args:
        uri: MLflow's tracking URI; None for a database in the store.
        experiment: the experiment's name.
        store_root: a local folder: the outbox lies there, and by default the database and the artifacts.
        warn: told one line when something could not be sent.
        store: the identity of the store whose cells are recorded; by default that of `store_root`.
        origin: tags of where a new run comes from: source, commit.
    """

    def __init__(
        self,
        uri: str | None,
        experiment: str,
        store_root: str,
        warn: Callable[[str], None],
        *,
        store: str | None = None,
        origin: Mapping[str, str] | None = None,
    ) -> None:
        self._root = Path(store_root).expanduser().resolve()
        self.uri = uri or f"sqlite:///{self._root / 'mlflow.db'}"
        self.experiment = experiment
        # MLflow would put the artifacts of a database into ./mlruns of whoever calls.
        self._artifacts = (self._root / "mlartifacts").as_uri() if self.uri.startswith("sqlite:") else None
        self._warn, self._told = warn, set[str]()
        self._given_store, self._origin = store, dict(origin or {})
        name = "default" if uri is None else shown(uri).split("://", 1)[-1]
        self._outbox = Outbox(self._root / "outbox" / "".join(c if c.isalnum() else "-" for c in name))
        self.failure: str | None = None

    @cached_property
    def store(self) -> str:
        """The identity of the store whose cells are recorded."""
        return self._given_store or store_identity(str(self._root))

    @property
    def shown_uri(self) -> str:
        """The tracking URI without user, password and query."""
        return shown(self.uri)

    @property
    def waiting(self) -> int:
        """How many runs wait in the outbox."""
        return len(self._outbox.pending())

    def record(
        self,
        cells: Sequence[CellRecord],
        artifacts: Files | None = None,
        checkpoints: Mapping[str, Checkpoint] | None = None,
        *,
        whole: bool = False,
    ) -> int:
        """Note every cell and curve in the outbox, then send what MLflow does not know yet.

        Args:
            cells: the sweep's cells.
            artifacts: cell key -> files of its run, each with its folder among the run's artifacts.
            checkpoints: cell key -> the checkpoint that it evaluates.
            whole: the cells are all that the sweep has: runs of what it no longer has are marked as superseded.

        Returns:
            how many runs were made or completed; 0 when nothing changed, or when MLflow cannot be reached.
        """
        entries = [*self._cell_entries(cells, artifacts, checkpoints), *curve_entries(cells, self.store)]
        owner = (self.store, cells[0].sweep) if cells else ("", "")
        return self._flush(entries, {owner: {entry.key for entry in entries}} if whole and cells else {})

    def record_interim(
        self,
        cells: Sequence[CellRecord],
        artifacts: Files | None = None,
        checkpoints: Mapping[str, Checkpoint] | None = None,
    ) -> int:
        """The same for cells of a sweep that still runs: what other cells may change is not said yet."""
        return self._flush(list(self._cell_entries(cells, artifacts, checkpoints, interim=True)), {})

    def show_progress(self, sweep: str, text: str) -> None:
        """Say in the experiment's description how far a sweep is; where MLflow cannot be reached, nothing is said."""
        quiet_environment()
        with contextlib.suppress(*_unreachable_errors()):
            ensure_database(self.uri)
            session = Session(self.uri, self.experiment, self._artifacts, self._tell)
            session.show_progress(sweep, self.store, text)

    def flush(self) -> int:
        """Send what waits in the outbox; what cannot be sent stays there, with a warning.

        Returns:
            how many runs were made or completed.
        """
        return self._flush([], {})

    def _cell_entries(
        self,
        cells: Sequence[CellRecord],
        artifacts: Files | None,
        checkpoints: Mapping[str, Checkpoint] | None,
        *,
        interim: bool = False,
    ) -> Iterable[Entry]:
        base, files, kept = base_model(cells), artifacts or {}, checkpoints or {}
        for cell in cells:
            made = cell_entry(
                cell, base, files.get(cell.key, ()), store=self.store, checkpoint=kept.get(cell.key), interim=interim
            )
            yield replace(made, origin=self._origin)

    def _flush(self, entries: Sequence[Entry], kept: Mapping[tuple[str, str], set[str]]) -> int:
        """Note entries, send all that waits, and retire what `kept` sweeps no longer have."""
        self.failure = None
        try:
            for entry in entries:
                self._outbox.put(self._experiment_of(entry), entry)
            with self._outbox.locked():
                return self._send_patiently(kept)
        except OSError as error:  # a full disk
            self._fail(f"{error.filename or self._root}: {error.strerror or error}")
            return 0

    def _experiment_of(self, entry: Entry) -> str:
        return self.experiment + (CURVES_SUFFIX if CURVE_TAG in entry.tags else "")

    def _send_patiently(self, kept: Mapping[tuple[str, str], set[str]]) -> int:
        """Send all that waits; again after a pause where the server answers and fails now and then."""
        sent = 0
        for pause in (*_PAUSES_S, None):
            sessions: dict[str, Session] = {}
            try:
                return sent + self._send_all(sessions, kept)
            except _Interrupted as stopped:
                sent += stopped.sent
                if pause is None or not sessions:
                    self._fail(self._reason(stopped.error), f"; {self.waiting} runs wait in the outbox")
                    return sent
            time.sleep(pause)
        raise AssertionError("the last try has no pause")

    def _send_all(self, sessions: dict[str, Session], kept: Mapping[tuple[str, str], set[str]]) -> int:
        """Send all that waits, in `sessions` that are opened as they are needed.

        Raises:
            _Interrupted: MLflow cannot be reached, or no longer.
        """
        sent = 0
        waiting = self._outbox.pending()
        try:
            if waiting:
                quiet_environment()
                ensure_database(self.uri)
            for pending in waiting:
                if pending.experiment not in sessions:
                    sessions[pending.experiment] = Session(self.uri, pending.experiment, self._artifacts, self._tell)
                sent += self._send(sessions[pending.experiment], pending)
            for session in sessions.values():
                session.settle()
                for owner, keys in kept.items():
                    session.runs.retire(owner, keys)
                session.save_views()
        except _unreachable_errors() as error:
            raise _Interrupted(sent, error) from error
        return sent

    def _send(self, session: Session, pending: Pending) -> int:
        from mlflow.exceptions import MlflowException

        for last in (False, True):
            try:
                changed = session.say(pending)
            except MlflowException as error:
                if error.error_code in _UNREACHABLE:
                    raise
                session.runs.forget()  # another sender may have settled a run that was to be completed
                if last:
                    self._fail(f"{pending.entry.run_name}: {self._reason(error)}", "; it stays in the outbox")
            else:
                self._outbox.drop(pending)
                return int(changed)
        return 0

    def _fail(self, reason: str, consequence: str = "") -> None:
        text = reason if reason.startswith(self.shown_uri) else f"{self.shown_uri}: {reason}"
        self.failure = self.failure or text
        self._tell(text, consequence)

    def _tell(self, text: str, consequence: str = "") -> None:
        """Warn of a thing once."""
        if text not in self._told:
            self._told.add(text)
            self._warn(text + consequence)

    def _reason(self, error: Exception) -> str:
        """The error's first line, without the secrets that a URI may hold."""
        text = (str(error).strip() or type(error).__name__).splitlines()[0].replace(self.uri, self.shown_uri)
        parts = urlsplit(self.uri)
        for secret in (f"{parts.username}:{parts.password}@" if parts.password else "", parts.password, parts.query):
            text = text.replace(secret, "") if secret else text
        whole = len(text) <= MAX_REASON or isinstance(error, UnusableDatabaseError)
        return text if whole else f"{text[:MAX_REASON]}…"


class _Interrupted(Exception):  # noqa: N818
    """Sending stopped after `sent` runs."""

    def __init__(self, sent: int, error: Exception) -> None:
        super().__init__(str(error))
        self.sent, self.error = sent, error


def check_uri(uri: str) -> None:
    """Refuse what MLflow would not understand, or would take for the name of a new folder.

    Raises:
        UserError: the scheme is none of those allowed, and the text is no path either.
    """
    scheme = urlsplit(uri).scheme.partition("+")[0]
    is_path = not scheme and ("/" in uri or Path(uri).is_dir())
    if not is_path and scheme not in SCHEMES:
        allowed = ", ".join(f"{name}:" for name in SCHEMES)
        raise UserError(
            f"tracking URI {shown(uri)!r}: unknown; use one that starts with {allowed} or a path such as ./mlruns"
        )


def shown(uri: str) -> str:
    """A URI without user, password and query: what may stand in a log.

    >>> shown("https://ada:secret@mlflow.example:5000/?token=1")
    'https://mlflow.example:5000/'
    """
    parts = urlsplit(uri)
    # urlunsplit would lose a slash of sqlite:////absolute/path, which has no host.
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.scheme else uri


def _unreachable_errors() -> tuple[type[Exception], ...]:
    """What talking to a tracking server or its database may raise when it is not there."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, RequestException, SQLAlchemyError, OSError, UnusableDatabaseError)
