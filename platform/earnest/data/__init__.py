"""Data that a user brings: found, hashed, and read row by row with clear errors.

A name is a file (Parquet, JSON lines, a JSON array, CSV, TSV or text; all but Parquet may be compressed by gzip or
zstd), a folder of such files or of their shards, one or more per split, a folder saved by `datasets`, or a hub id. What
the almanac invents (`nano`) is not read from here: it is made.
"""

from earnest.data.columns import MappedPath, mapped
from earnest.data.reading import columns, file_of, iterate_rows, iterate_texts, read_rows, text_of
from earnest.data.source import NANO, DataSource, content_digest, resolve_data
from earnest.data.splits import splits

__all__ = [
    "NANO",
    "DataSource",
    "MappedPath",
    "columns",
    "content_digest",
    "file_of",
    "iterate_rows",
    "iterate_texts",
    "mapped",
    "read_rows",
    "resolve_data",
    "splits",
    "text_of",
]
