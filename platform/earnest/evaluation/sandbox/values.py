"""Values as plain JSON, so that a process can take them from one that it does not trust: no code travels with them.

Known are Python's own types and their subclasses, and what numpy, pandas, scipy.sparse and torch compute with. A
subclass becomes the type it comes from: what a class of the sender says of equality does not travel. Needs the
standard library alone, as `enclosure` says.
"""

from __future__ import annotations

import base64
import datetime as dt
import importlib
from collections import deque
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

MOST_ITEMS = 1_000_000
EXACT = 2**53


class UnsentError(TypeError):
    """A value of a type that is not sent."""


def encode(value: Any) -> Any:
    """A value as what JSON can say.

    Raises:
        UnsentError: its type, or that of a value in it, is none of those that are sent.
    """
    if value is None or isinstance(value, (bool, str)):
        return str.__str__(value) if isinstance(value, str) else value
    for kind, types, write in _PLAIN:
        if isinstance(value, types):
            return {kind: write(value)}
    library = type(value).__module__.partition(".")[0]
    if library in _LIBRARIES:
        return _LIBRARIES[library](value)
    if isinstance(value, Iterator):
        return {"iterator": _items(value)}
    raise UnsentError("{}.{}".format(type(value).__module__, type(value).__name__))  # noqa: UP032


def decode(said: Any) -> Any:
    """The value that `encode` wrote.

    Raises:
        ValueError, TypeError, KeyError: nothing that it writes reads so.
    """
    if not isinstance(said, dict):
        return said
    ((kind, content),) = said.items()
    return _READ[kind](content)


def _items(values: Any) -> list[Any]:
    found = []
    for value in values:
        found.append(encode(value))
        if len(found) > MOST_ITEMS:
            raise UnsentError("more than {} items".format(MOST_ITEMS))  # noqa: UP032
    return found


def _all(content: Any) -> list[Any]:
    return [decode(each) for each in content]


def _pairs(value: Any) -> list[Any]:
    return [[encode(key), encode(each)] for key, each in dict.items(value)]


def _whole(value: int) -> Any:
    return int(value) if -EXACT < value < EXACT else hex(value)  # decimal digits take quadratic time, and are bounded


_PLAIN: tuple[tuple[str, Any, Any], ...] = (
    ("int", int, _whole),
    ("float", float, float.hex),
    ("complex", complex, lambda value: [value.real.hex(), value.imag.hex()]),
    ("bytes", (bytes, bytearray), lambda value: base64.b64encode(bytes(value)).decode()),
    ("list", list, lambda value: _items(list.__iter__(value))),
    ("tuple", tuple, lambda value: _items(tuple.__iter__(value))),
    ("set", (set, frozenset), lambda value: _items(list(value))),
    ("dict", dict, _pairs),
    ("deque", deque, _items),
    ("range", range, lambda value: [value.start, value.stop, value.step]),
    ("views", (type({}.keys()), type({}.items())), _items),
    ("decimal", Decimal, str),
    ("fraction", Fraction, str),
)
_READ: dict[str, Any] = {
    "int": lambda content: int(content, 16) if isinstance(content, str) else content,
    "float": float.fromhex,
    "complex": lambda content: complex(float.fromhex(content[0]), float.fromhex(content[1])),
    "bytes": base64.b64decode,
    "list": _all,
    "tuple": lambda content: tuple(_all(content)),
    "set": lambda content: set(_all(content)),
    "dict": lambda content: {decode(key): decode(value) for key, value in content},
    "deque": lambda content: deque(_all(content)),
    "range": lambda content: range(*content),
    "views": lambda content: set(_all(content)),
    "iterator": lambda content: iter(_all(content)),
    "decimal": Decimal,
    "fraction": Fraction,
}


def _datetime(value: Any) -> Any:
    if isinstance(value, dt.timedelta):
        return {"timedelta": [value.days, value.seconds, value.microseconds]}
    for kind in ("datetime", "date", "time"):  # a datetime is a date, too
        if isinstance(value, getattr(dt, kind)):
            return {kind: value.isoformat()}
    raise UnsentError("datetime." + type(value).__name__)


_READ.update({
    "timedelta": lambda content: dt.timedelta(*content),
    "datetime": dt.datetime.fromisoformat,
    "date": dt.date.fromisoformat,
    "time": dt.time.fromisoformat,
})  # fmt: skip


def _numpy(value: Any) -> Any:
    numpy = importlib.import_module("numpy")
    if isinstance(value, numpy.generic):
        return {"scalar": _array(numpy.asarray(value))}
    if isinstance(value, numpy.ndarray):
        return {"array": _array(value)}
    raise UnsentError("numpy." + type(value).__name__)


def _array(value: Any) -> list[Any]:
    """Type, shape, and the bytes or, of objects, the values in order."""
    if value.dtype.hasobject:
        return ["O", list(value.shape), _items(value.ravel().tolist())]
    if value.dtype.names:
        raise UnsentError("numpy array of records")
    return [value.dtype.str, list(value.shape), base64.b64encode(value.tobytes()).decode()]


def _read_array(content: Any) -> Any:
    numpy = importlib.import_module("numpy")
    kind, shape, held = content
    if kind == "O":
        found = numpy.empty(len(held), dtype=object)
        for place, each in enumerate(held):
            found[place] = decode(each)
        return found.reshape(shape)
    return numpy.frombuffer(base64.b64decode(held), dtype=numpy.dtype(kind)).reshape(shape).copy()


def _pandas(value: Any) -> Any:
    pandas = importlib.import_module("pandas")
    if value is pandas.NA or value is pandas.NaT:
        return {"missing": str(value)}
    if isinstance(value, pandas.Timestamp):
        return {"Timestamp": [value.isoformat(), str(value.tz) if value.tz else None]}
    if isinstance(value, pandas.Timedelta):
        return {"Timedelta": value.isoformat()}
    if isinstance(value, pandas.Index):
        return {"Index": _index(pandas, value)}
    if isinstance(value, pandas.Series):
        return {"Series": [_cells(pandas, value), _index(pandas, value.index), encode(value.name)]}
    if isinstance(value, pandas.DataFrame):
        columns = [_cells(pandas, value.iloc[:, place]) for place in range(value.shape[1])]
        return {"DataFrame": [columns, _index(pandas, value.index), _index(pandas, value.columns)]}
    raise UnsentError("pandas." + type(value).__name__)


def _cells(pandas: Any, values: Any) -> list[Any]:
    """The cells of a Series or Index: how they are kept, and they."""
    kind = values.dtype
    if isinstance(kind, pandas.CategoricalDtype):
        held = values.array
        return ["category", [_array(held.codes), _index(pandas, held.categories), bool(held.ordered)]]
    if type(kind).__module__.partition(".")[0] == "numpy" and not kind.hasobject:
        return ["numpy", _array(values.to_numpy())]
    if isinstance(kind, pandas.DatetimeTZDtype):
        return ["zoned", [_array(values.array.asi8), str(kind)]]
    return ["objects", [_items(list(values)), str(kind)]]


def _read_cells(pandas: Any, said: Any) -> Any:
    kind, content = said
    if kind == "category":
        codes, categories, ordered = content
        return pandas.Categorical.from_codes(_read_array(codes), _read_index(categories), ordered=ordered)
    if kind == "numpy":
        return _read_array(content)
    if kind == "zoned":
        unit, zone = content[1][len("datetime64[") : -1].split(", ")
        times = _read_array(content[0]).view("M8[{}]".format(unit))  # noqa: UP032
        return pandas.DatetimeIndex(times).tz_localize("UTC").tz_convert(zone)
    values, name = content
    held = _read_array(["O", [len(values)], values])
    return held if name == "object" else pandas.array(held, dtype=name)


def _index(pandas: Any, value: Any) -> list[Any]:
    names = [encode(name) for name in value.names]
    if isinstance(value, pandas.MultiIndex):
        return ["many", [_index(pandas, value.get_level_values(level)) for level in range(value.nlevels)], names]
    if isinstance(value, pandas.RangeIndex):
        return ["range", [value.start, value.stop, value.step], names]
    return ["one", [_cells(pandas, value), getattr(value, "freqstr", None)], names]


def _read_index(said: Any) -> Any:
    pandas = importlib.import_module("pandas")
    kind, content, names = said[0], said[1], [decode(name) for name in said[2]]
    if kind == "many":
        return pandas.MultiIndex.from_arrays([_read_index(level) for level in content], names=names)
    if kind == "range":
        return pandas.RangeIndex(*content, name=names[0])
    found = pandas.Index(_read_cells(pandas, content[0]), name=names[0])
    if content[1] is not None and hasattr(found, "freq") and found.freq is None:
        found.freq = content[1]
    return found


def _read_series(content: Any) -> Any:
    pandas = importlib.import_module("pandas")
    return pandas.Series(_read_cells(pandas, content[0]), index=_read_index(content[1]), name=decode(content[2]))


def _read_frame(content: Any) -> Any:
    pandas = importlib.import_module("pandas")
    index = _read_index(content[1])
    columns = {place: pandas.Series(_read_cells(pandas, each), index) for place, each in enumerate(content[0])}
    found = pandas.DataFrame(columns, index=index)
    found.columns = _read_index(content[2])
    return found


def _scipy(value: Any) -> Any:
    sparse = importlib.import_module("scipy.sparse")
    if not sparse.issparse(value):
        raise UnsentError("scipy." + type(value).__name__)
    held = value.tocoo()
    return {"sparse": [type(value).__name__, [_array(each) for each in (held.data, held.row, held.col)], held.shape]}


def _read_sparse(content: Any) -> Any:
    sparse = importlib.import_module("scipy.sparse")
    name, parts, shape = content
    data, row, column = [_read_array(part) for part in parts]
    if name[:3] not in ("bsr", "coo", "csc", "csr", "dia", "dok", "lil"):
        raise ValueError(name)
    kind = sparse.coo_array if name.endswith("array") else sparse.coo_matrix
    return kind((data, (row, column)), shape=tuple(shape)).asformat(name[:3])


def _torch(value: Any) -> Any:
    torch = importlib.import_module("torch")
    if not isinstance(value, torch.Tensor):
        raise UnsentError("torch." + type(value).__name__)
    return {"tensor": _array(value.detach().cpu().numpy())}


_LIBRARIES = {"datetime": _datetime, "numpy": _numpy, "pandas": _pandas, "scipy": _scipy, "torch": _torch}
_READ.update({
    "scalar": lambda content: _read_array(content)[()],
    "array": _read_array,
    "missing": lambda content: getattr(importlib.import_module("pandas"), {"<NA>": "NA"}.get(content, "NaT")),
    "Timestamp": lambda content: importlib.import_module("pandas").Timestamp(content[0]).tz_convert(content[1])
    if content[1] else importlib.import_module("pandas").Timestamp(content[0]),
    "Timedelta": lambda content: importlib.import_module("pandas").Timedelta(content),
    "Index": _read_index,
    "Series": _read_series,
    "DataFrame": _read_frame,
    "sparse": _read_sparse,
    "tensor": lambda content: importlib.import_module("torch").from_numpy(_read_array(content)),
})  # fmt: skip
