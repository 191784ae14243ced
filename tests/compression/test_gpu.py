"""The same compression on a GPU: what the CPU finds, up to float rounding."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from earnest.compression.checkpoint import load
from earnest.compression.produce import compress_to_folder
from earnest.compression.walk import compress
from earnest.specs import read_method

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "random", "sparsity": 0.5},
        {"method": "magnitude", "sparsity": 0.5},
        {"method": "wanda", "sparsity": 0.5},
        {"method": "sparsegpt", "sparsity": 0.5},
        {"method": "rtn", "bits": 4, "group_size": 16},
        {"method": "gptq", "bits": 4, "group_size": 16, "act_order": True},
    ],
    ids=lambda fields: str(fields["method"]),
)
def test_a_gpu_finds_what_the_cpu_finds(
    fields: dict[str, Any], make_model: Callable[..., Any], ids: Tensor, tmp_path: Path
) -> None:
    method = read_method(fields)
    here, there = make_model(), make_model()
    there.model.to("cuda")
    compress(here, method, ids)
    compress_to_folder(there, method, ids, tmp_path / "out")
    expected, found = here.model.state_dict(), there.model.state_dict()
    differing = sum(int(((found[key].cpu() - expected[key]).abs() > 1e-3).sum()) for key in expected)
    assert differing <= 0.01 * sum(tensor.numel() for tensor in expected.values())
    again = load(tmp_path / "out", device="cuda")
    with torch.no_grad():
        assert torch.equal(again.model(input_ids=ids.cuda()).logits, there.model(input_ids=ids.cuda()).logits)
