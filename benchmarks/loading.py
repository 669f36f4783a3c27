"""Host memory of loading a Hugging Face directory, measured on a random checkpoint of a little over 1 GB.

What it shows: `ml.load_base` puts tensors on their devices one at a time, so that beside what stays on the devices the
host holds less than the two largest tensors. Each case runs in a process of its own, whose highest resident memory
(VmHWM, mapped pages of the files included) is compared with what it was before loading. On a CPU the device's memory
is the host's, so the weights themselves are subtracted.

Hardware: any; 2 CPU cores, 4 GB of memory and 1.3 GB of disk will do. Takes about 1 minute.
Expected: in each case `above the weights` is below `two largest tensors`.

    python benchmarks/loading.py --out benchmarks/results/loading
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from etils import epath

from memlaw_jax.models import Decoder, DecoderConfig
from memlaw_jax.models.checkpoint import write_checkpoint
from memlaw_jax.results import commit, now, versions

CONFIG = DecoderConfig(
    family="qwen3", vocab_size=65_536, hidden_size=2048, intermediate_size=8192, num_layers=6, num_heads=16,
    num_kv_heads=4, head_dim=128,
)  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "bfloat16": {"dtype": "bfloat16", "devices": 1},
    "float32": {"dtype": "float32", "devices": 1},
    "bfloat16, 4 devices": {"dtype": "bfloat16", "devices": 4},
}
CHILD = """
import json, sys
import jax, jax.numpy as jnp
from etils import epath
from memlaw_jax.models.checkpoint import read_config, read_params
from memlaw_jax.models.base import DTYPES

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024

directory, dtype, devices = sys.argv[1], sys.argv[2], int(sys.argv[3])
mesh = None
if devices > 1:
    shape = (devices // 2, 2)
    mesh = jax.make_mesh(shape, ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
jnp.zeros(8).block_until_ready()  # the backend's own memory is none of the loader's
config = read_config(epath.Path(directory))
before = peak()
params = jax.block_until_ready(read_params(epath.Path(directory), config, DTYPES[dtype], mesh))
sizes = [shard.data.nbytes for leaf in jax.tree.leaves(params) for shard in leaf.addressable_shards]
print(json.dumps({"before": before, "peak": peak(), "weights": sum(sizes)}))
"""


def write_random(directory: Path) -> tuple[int, int]:
    """A sharded bfloat16 checkpoint of `CONFIG`; returns its bytes and those of its two largest tensors."""
    rng = np.random.default_rng(0)

    def noise(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        return rng.integers(-127, 128, leaf.shape, np.int8).astype(ml_dtypes.bfloat16)

    shapes = jax.eval_shape(Decoder(CONFIG).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    params = jax.tree.map(noise, shapes)
    params["lm_head"]["kernel"] = params["embed_tokens"]["embedding"].T  # as in a tied checkpoint that stores it too
    write_checkpoint(epath.Path(directory), CONFIG, params, shard_bytes=512 << 20)
    stacks = [(leaf.nbytes, len(leaf)) for leaf in jax.tree.leaves(params.pop("layers"))]
    sizes = [size // layers for size, layers in stacks for _ in range(layers)]
    sizes += [leaf.nbytes for leaf in jax.tree.leaves(params)]
    return sum(sizes), sum(sorted(sizes)[-2:])


def measure(directory: Path, dtype: str, devices: int) -> dict[str, Any]:
    """Bytes and seconds of one loading, in a fresh process."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(directory), dtype, str(devices)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    above = found["peak"] - found["before"] - found["weights"]
    return found | {"above_the_weights": above, "seconds_with_start": round(time.perf_counter() - begun, 1)}


def run() -> dict[str, Any]:
    """All cases on one checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        size, largest = write_random(Path(folder))
        cases = {name: measure(Path(folder), **case) for name, case in CASES.items()}
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": True}))
        cases["bfloat16, tied"] = measure(Path(folder), **CASES["bfloat16"])
    return {"checkpoint": size, "two_largest_tensors": largest, "cases": cases}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", metavar="DIR", help="folder for loading.json")
    args = parser.parse_args()
    found = run() | {"command": " ".join(sys.argv), "versions": versions(), "git": commit(), "date": now()}
    checkpoint, largest = (found[key] / 1e6 for key in ("checkpoint", "two_largest_tensors"))
    print(f"checkpoint {checkpoint:.0f} MB, two largest tensors {largest:.0f} MB")
    for name, case in found["cases"].items():
        weights, above = (case[key] / 1e6 for key in ("weights", "above_the_weights"))
        print(f"{name}: weights {weights:.0f} MB, above them at most {above:.0f} MB")
    if args.out:
        path = Path(args.out) / "loading.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=2) + "\n")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
