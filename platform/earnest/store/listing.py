"""What a bucket holds of one kind of steps: one listing of the prefix instead of a question per object."""

from __future__ import annotations

import time
from typing import Any

from earnest.store.inspection import StoredFile

KEPT_S = 10.0


class Listing:
    """The objects below a bucket's prefix, by digest; a listing serves for a moment, or until `forget`."""

    def __init__(self, fs: Any, base: str) -> None:
        self._fs, self._base = fs, base
        self._kept: dict[str, tuple[float, dict[str, dict[str, StoredFile]]]] = {}

    def of(self, kind: str) -> dict[str, dict[str, StoredFile]]:
        """Digest -> the files of that step's folder."""
        if kind not in self._kept or time.monotonic() - self._kept[kind][0] > KEPT_S:
            found: dict[str, dict[str, StoredFile]] = {}
            for path, entry in self.below(kind).items():
                digest, _, name = path.partition("/")
                found.setdefault(digest, {})[name] = entry
            self._kept[kind] = (time.monotonic(), found)
        return self._kept[kind][1]

    def below(self, folder: str) -> dict[str, StoredFile]:
        """The objects below a folder of the store by their relative names, asked for now."""
        place = f"{self._base}/{folder}"
        self._fs.invalidate_cache()
        found = self._fs.find(place, detail=True)
        start = len(str(self._fs._strip_protocol(place)).rstrip("/")) + 1
        return {str(path)[start:]: StoredFile(int(info["size"]), _version(info)) for path, info in found.items()}

    def forget(self) -> None:
        """Something was written or removed."""
        self._kept.clear()


def _version(info: dict[str, Any]) -> str:
    return str(next((info[key] for key in ("ETag", "etag", "md5Hash", "LastModified", "created") if key in info), ""))
