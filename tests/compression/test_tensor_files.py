"""Files written tensor by tensor are those that safetensors writes at once; compressing holds one model, not four."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from earnest.compression.tensor_files import DTYPES, Entry, Spool, open_tensors, write_tensors
from earnest.specs import UserError


def test_a_file_has_the_bytes_that_safetensors_gives_it(tmp_path: Path) -> None:
    """Every dtype, a scalar, an empty tensor, a transposed one, names beyond ASCII."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"one.{name}": torch.randint(0, 2, (3, 5), generator=generator).to(kind) for kind, name in DTYPES.items()
    }
    tensors |= {"scalar": torch.tensor(3.0), "empty": torch.empty(0, 4), "größe": torch.rand(7), 'a"b': torch.rand(2)}
    save_file(tensors, tmp_path / "expected", metadata={"format": "earnest"})
    tensors["one.F32"] = tensors["one.F32"].t().contiguous().t()
    write_tensors(tmp_path / "found", {k: Entry.of(v) for k, v in tensors.items()}, {"format": "earnest"})
    assert (tmp_path / "found").read_bytes() == (tmp_path / "expected").read_bytes()


def test_what_waits_on_disk_is_read_again_as_it_was(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put({"a": torch.arange(5), "b": torch.tensor([1.5], dtype=torch.bfloat16)})
    spool.put({"c": torch.eye(2)})
    assert {name: entry.get().tolist() for name, entry in spool.entries.items()} == {
        "a": [0, 1, 2, 3, 4], "b": [1.5], "c": [[1.0, 0.0], [0.0, 1.0]],
    }  # fmt: skip


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    write_tensors(tmp_path / "one.safetensors", {"a": Entry.of(torch.rand(100))}, {})
    whole = (tmp_path / "one.safetensors").read_bytes()
    (tmp_path / "one.safetensors").write_bytes(whole[:-8])
    with pytest.raises(UserError, match=r"one\.safetensors: is corrupted"), open_tensors(tmp_path, ["one.safetensors"]):
        pass


PEAK = """
import json, resource, sys
from pathlib import Path
import torch
from earnest.compression.produce import compress_to_folder
from earnest.models.loading import load
from earnest.models.source import resolve
from earnest.specs import read_method

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

folder, out, fields = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
loaded = load(resolve(str(folder)))
before = peak()
ids = torch.randint(264, (4, 64), generator=torch.Generator().manual_seed(0))
compress_to_folder(loaded, read_method(fields), ids, out)
print(json.dumps([before, peak(), sum(t.numel() * t.element_size() for t in loaded.model.parameters())]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("layers", [4, 16])
@pytest.mark.parametrize(
    "fields", [{"method": "magnitude", "sparsity": 0.1}, {"method": "gptq", "bits": 8, "group_size": -1}], ids=str
)
def test_compressing_takes_the_weights_once_however_many_blocks_there_are(
    layers: int, fields: dict[str, object], make_model: object, tmp_path: Path
) -> None:
    """Beside the weights, which may be mapped, no more than one block's work."""
    loaded = make_model(  # type: ignore[operator]
        hidden_size=512, intermediate_size=2048, num_attention_heads=8, num_key_value_heads=8, head_dim=64,
        num_hidden_layers=layers,
    )  # fmt: skip
    arguments = [str(loaded.folder), str(tmp_path / "out"), json.dumps(fields)]
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    before, peak, weights = json.loads(run.stdout.splitlines()[-1])
    assert peak - before < weights + 200 * 2**20
