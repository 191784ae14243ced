"""What a user writes: frozen models of methods, tasks, calibration and sweeps.

Everything here is data. Unknown keys are refused, numbers are checked, and the canonical JSON of a spec is what
a step's digest covers. What the house itself writes down is in `records.py`.
"""

from earnest.specs.code import DS1000, CodeTask, HumanEval
from earnest.specs.ensembles import ADAPTIVE, Alpha, Proxy, alpha_text, read_alpha
from earnest.specs.frame import Spec, UserError, explain, validated
from earnest.specs.methods import (
    GPTQ,
    METHODS,
    RTN,
    AnyMethod,
    Dense,
    Magnitude,
    Method,
    Pruning,
    Quantisation,
    Random,
    SparseGPT,
    Wanda,
    read_method,
)
from earnest.specs.patterns import NM, Pattern, Unstructured, parse_pattern
from earnest.specs.sweeps import Calibration, Cluster, Sweep, Tracking, expand, read_sweep
from earnest.specs.task import Task
from earnest.specs.tasks import (
    GSM8K,
    MMLU,
    TASKS,
    AnyTask,
    Biography,
    ClosedBook,
    FactoidQA,
    MultipleChoice,
    OpenBook,
    Perplexity,
    Summarisation,
    ToxiGen,
    TriviaQA,
    TruthfulQA,
    read_task,
)

__all__ = [
    "ADAPTIVE",
    "DS1000",
    "GPTQ",
    "GSM8K",
    "METHODS",
    "MMLU",
    "NM",
    "RTN",
    "TASKS",
    "Alpha",
    "AnyMethod",
    "AnyTask",
    "Biography",
    "Calibration",
    "ClosedBook",
    "Cluster",
    "CodeTask",
    "Dense",
    "FactoidQA",
    "HumanEval",
    "Magnitude",
    "Method",
    "MultipleChoice",
    "OpenBook",
    "Pattern",
    "Perplexity",
    "Proxy",
    "Pruning",
    "Quantisation",
    "Random",
    "SparseGPT",
    "Spec",
    "Summarisation",
    "Sweep",
    "Task",
    "ToxiGen",
    "Tracking",
    "TriviaQA",
    "TruthfulQA",
    "Unstructured",
    "UserError",
    "Wanda",
    "alpha_text",
    "expand",
    "explain",
    "parse_pattern",
    "read_alpha",
    "read_method",
    "read_sweep",
    "read_task",
    "validated",
]  # fmt: skip
