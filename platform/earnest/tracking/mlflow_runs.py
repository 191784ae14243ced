"""The tracker: says each cell once to MLflow, and keeps what could not be said for later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from earnest.records import CellRecord
from earnest.specs import UserError
from earnest.tracking.entries import base_model, cell_entry, curve_entries
from earnest.tracking.outbox import Outbox, Pending
from earnest.tracking.session import Session

_UNREACHABLE = (
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "REQUEST_LIMIT_EXCEEDED",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
)

SCHEMES = ("sqlite", "postgresql", "mysql", "http", "https", "file")


class Tracker:
    """Records cells in one MLflow experiment.

    Args:
        uri: MLflow's tracking URI; None for a database in the store.
        experiment: the experiment's name.
        store_root: a local folder: the outbox lies there, and by default the database and the artifacts.
        warn: told one line when something could not be sent.
    """

    def __init__(self, uri: str | None, experiment: str, store_root: str, warn: Callable[[str], None]) -> None:
        root = Path(store_root).expanduser().resolve()
        self.uri = uri or f"sqlite:///{root / 'mlflow.db'}"
        self.experiment = experiment
        # MLflow would put the artifacts of a database into ./mlruns of whoever calls.
        self._artifacts = (root / "mlartifacts").as_uri() if self.uri.startswith("sqlite:") else None
        self._warn = warn
        name = "default" if uri is None else shown(uri).split("://", 1)[-1]
        self._outbox = Outbox(root / "outbox" / "".join(c if c.isalnum() else "-" for c in name))

    @property
    def shown_uri(self) -> str:
        """The tracking URI without user, password and query."""
        return shown(self.uri)

    def record(
        self, cells: Sequence[CellRecord], artifacts: Mapping[str, Sequence[tuple[Path, str]]] | None = None
    ) -> int:
        """Note every cell and curve in the outbox, then send what MLflow does not know yet.

        Args:
            cells: the sweep's cells.
            artifacts: cell key -> files of its run, each with its folder among the run's artifacts.

        Returns:
            how many runs were made or completed; 0 when nothing changed, or when MLflow cannot be reached.
        """
        base = base_model(cells)
        entries = [cell_entry(cell, base, (artifacts or {}).get(cell.key, ())) for cell in cells]
        for entry in [*entries, *curve_entries(cells)]:
            self._outbox.put(self.experiment, entry)
        return self.flush()

    def flush(self) -> int:
        """Send what waits in the outbox; what cannot be sent stays there, with a warning.

        Returns:
            how many runs were made or completed.
        """
        with self._outbox.locked():
            waiting = self._outbox.pending()
            return self._send_all(waiting) if waiting else 0

    def _send_all(self, waiting: Sequence[Pending]) -> int:
        sent = 0
        try:
            sessions = {name: Session(self.uri, name, self._artifacts) for name in {p.experiment for p in waiting}}
            for pending in waiting:
                sent += self._send(sessions[pending.experiment], pending)
            for session in sessions.values():
                session.save_views()
        except _unreachable_errors() as error:
            self._warn(
                f"{self.shown_uri}: {self._reason(error)}; {len(self._outbox.pending())} runs wait in the outbox"
            )
        return sent

    def _send(self, session: Session, pending: Pending) -> int:
        from mlflow.exceptions import MlflowException

        try:
            changed = session.say(pending)
        except MlflowException as error:
            if error.error_code in _UNREACHABLE:
                raise
            self._warn(f"{pending.entry.run_name}: {self._reason(error)}; it stays in the outbox")
            return 0
        self._outbox.drop(pending)
        return int(changed)

    def _reason(self, error: Exception) -> str:
        """The error's first line, without the secrets that a URI may hold."""
        text = (str(error).strip() or type(error).__name__).splitlines()[0].replace(self.uri, self.shown_uri)
        parts = urlsplit(self.uri)
        for secret in (f"{parts.username}:{parts.password}@" if parts.password else "", parts.password, parts.query):
            text = text.replace(secret, "") if secret else text
        return text if len(text) <= 200 else f"{text[:200]}…"


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

    return (MlflowException, RequestException, SQLAlchemyError, OSError)
