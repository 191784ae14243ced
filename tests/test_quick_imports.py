"""What a command does not need it does not import, and what is put off is there when somebody needs it."""

import json
import subprocess
import sys
from functools import cache

import pytest

TRACING = {"torch._dynamo.convert_frame", "torch._inductor", "torch.distributed.tensor", "torch.distributed.fsdp"}
ELSEWHERE = {"ray", "mlflow", "datasets", "lm_eval", "sklearn", "matplotlib", "numba"}


def run(program: str) -> str:
    """What a program prints last, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@cache
def imported_by(*arguments: str) -> frozenset[str]:
    """The modules that a command has imported when it ends."""
    program = (
        "import atexit, json, sys\nfrom earnest.cli import main\n"
        "atexit.register(lambda: print(json.dumps(sorted(sys.modules))))\n"
        f"sys.argv = ['earnest', *{list(arguments)!r}]\nmain()"
    )
    return frozenset(json.loads(run(program)))


@pytest.mark.parametrize("command", ["--help", "evaluate --help", "sweep --help"])
def test_help_imports_nothing_that_computes(command: str) -> None:
    assert not imported_by(*command.split()) & {"torch", "transformers", "numpy", "pyarrow", "scipy", *ELSEWHERE}


def test_an_evaluation_imports_nothing_of_tracing_sweeps_or_other_harnesses() -> None:
    modules = imported_by("evaluate", "nano:small", "--task", "closed_book", "--limit", "2")
    assert "transformers.models.llama.modeling_llama" in modules
    assert not modules & {*TRACING, *ELSEWHERE, "scipy.stats", "pandas"}


def test_a_plan_imports_nothing_that_runs_it() -> None:
    modules = imported_by("plan", "jobs/configs/smoke.toml", "--store", "/nonexistent/store")
    assert not modules & {*TRACING, "ray", "mlflow", "datasets", "lm_eval", "pandas"}


def test_tracing_works_once_it_is_wanted() -> None:
    traced = run(
        "from earnest import quick_imports\nquick_imports.install()\nimport sys, torch\n"
        "never = torch.compiler.disable(lambda x: (x + 1, torch.compiler.is_compiling()))\n"
        "shown = torch.compiler.disable(recursive=False)(lambda x: x)\n"
        "assert never(torch.ones(1))[0] == 2 and shown(3) == 3\n"
        "assert 'torch._dynamo.convert_frame' not in sys.modules\n"
        "def seen(x): return x.sin() if torch.compiler.is_compiling() else x * 0\n"
        "made = torch.compile(seen, backend='eager')\n"
        "assert torch.equal(made(torch.ones(1)), torch.ones(1).sin())\n"
        "assert 'torch._dynamo.convert_frame' in sys.modules\n"
        "print(never(torch.ones(1))[1])"
    )
    assert traced == "False"


def test_a_submodule_is_whole_when_it_is_the_first_to_be_imported() -> None:
    program = (
        "from earnest import quick_imports\nquick_imports.install()\n"
        "from torch._dynamo.utils import counters\nimport torch\nprint(type(torch._dynamo).__name__)"
    )
    assert run(program) == "module"


def test_a_library_changes_nothing_in_its_callers_process() -> None:
    program = "import gc, sys, earnest.oneoff, earnest.sweep\nprint(gc.get_threshold()[0], len(sys.meta_path))"
    plain = "import gc, sys, torch, transformers\nprint(gc.get_threshold()[0])"
    assert run(program).split()[0] == run(plain)
    assert "quick_imports" not in run("import sys, earnest.oneoff\nprint([m for m in sys.modules if 'quick' in m])")
