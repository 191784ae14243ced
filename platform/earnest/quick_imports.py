"""Import torch and transformers in half the time, in a process that is ours alone: the command line's.

transformers' model code imports what only tracing, training across machines and detecting objects need: `torch._dynamo`
with sympy behind it, DTensor and FSDP, scipy's optimisers. No command uses any of them, and together they take as long
as torch itself. So `torch._dynamo` runs its own code when something of it is first needed, and transformers is told
that the others are not there. What is computed is the same. A library must not do this to its caller's process.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

DEFERRED = "torch._dynamo"
ALONE = {f"{DEFERRED}._trace_wrapped_higher_order_op"}  # a submodule that needs no other; what masks are made with
CHECKS = "transformers.utils.import_utils"
UNUSED = ("is_torch_distributed_available", "is_scipy_available")
YOUNG_OBJECTS = 50_000  # imports make a million objects that stay: looking for garbage among them takes half a second

Function = Callable[..., Any]


def install() -> None:
    """Take effect on what this process imports from now on."""
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds two modules as Python does, to be run in another way."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.startswith(f"{DEFERRED}.") and name not in ALONE:
            _run(sys.modules[DEFERRED])  # its submodules expect it to have run
            return None
        loaders = {DEFERRED: _DeferredLoader, CHECKS: _ChecksLoader}
        spec = PathFinder.find_spec(name, path, target) if name in loaders else None
        if spec is not None and spec.loader is not None:
            spec.loader = loaders[name](spec.loader)
        return spec


class _Wrapped(Loader):
    def __init__(self, real: Loader) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the real loader does."""
        return self.real.create_module(spec)

    def __getattr__(self, name: str) -> Any:
        """What else is asked of loaders, such as the source for a traceback."""
        return getattr(self.real, name)


class _ChecksLoader(_Wrapped):
    """Runs transformers' checks for optional packages, then answers some of them with no."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module."""
        self.real.exec_module(module)
        for name in UNUSED:
            if hasattr(module, name):
                setattr(module, name, _absent)


def _absent(*_: object, **__: object) -> bool:
    return False


class _DeferredLoader(_Wrapped):
    def exec_module(self, module: ModuleType) -> None:
        """Leave the module's own code for later."""
        module.__class__ = _Deferred
        module.__dict__.update(disable=_disable, assume_constant_result=_constant, allow_in_graph=_allow_in_graph)


class _Deferred(ModuleType):
    """A package whose own code runs when an attribute or a submodule of it is first needed.

    The decorators that transformers' model code uses at import are here; they act when there is something to trace.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_run(self), name)


def _run(module: ModuleType) -> ModuleType:
    """The module, its own code having run."""
    deferred = isinstance(module, _Deferred)
    if deferred:
        module.__class__ = ModuleType
        spec = module.__spec__
        if spec is not None and isinstance(spec.loader, _DeferredLoader):
            spec.loader.real.exec_module(module)
        for name, function in _postponed:
            getattr(module, name)(function)
    return module


_postponed: list[tuple[str, Function]] = []


def _disable(function: Function | None = None, *options: Any, **named: Any) -> Any:
    """A function that is not traced; while nothing traces it is the function itself."""
    if function is None:
        return lambda later: _disable(later, *options, **named)
    if isinstance(function, type):
        return _run(sys.modules[DEFERRED]).disable(function, *options, **named)

    @wraps(function)
    def call(*args: Any, **fields: Any) -> Any:
        module = sys.modules[DEFERRED]
        if isinstance(module, _Deferred):
            return function(*args, **fields)
        return module.disable(function, *options, **named)(*args, **fields)

    return call


def _constant(function: Function) -> Function:
    _postponed.append(("assume_constant_result", function))
    return function


def _allow_in_graph(function: Any) -> Any:
    functions = function if isinstance(function, list | tuple) else [function]
    _postponed.extend(("allow_in_graph", each) for each in functions)
    return function
