"""What the machine says of itself: one core for both libraries, memory, matmul peak, and the words of a result file.

JAX and torch are imported inside functions: `one_core` and `one_gpu` work only before they are.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from common.machine import command_line, hardware

ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
}
# JAX's share of a GPU, taken when it starts, since it gives nothing back and reckons with all of it: beside torch,
# which holds Qwen3-8B and a step of 2000 tokens in 28 GB, and alone.
JAX_SHARE = {"shared": "0.55", "alone": "0.93"}
MATMUL = {("cpu", "float32"): 1536, ("cpu", "bfloat16"): 256, ("gpu", "float32"): 8192, ("gpu", "bfloat16"): 8192}
MATMUL_SECONDS = 0.5  # of each library


class Mistake(Exception):
    """A user's mistake, in one sentence."""


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise Mistake(f"{message}; see --help.")


def guarded(work: Callable[[Sequence[str] | None], int], arguments: Sequence[str] | None) -> int:
    """The exit code of a command: a mistake is one sentence and 2."""
    try:
        return work(arguments)
    except Mistake as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2


def one_core(core: int | None = None) -> int:
    """Pins this process and its children to one core and one thread a library; returns the core."""
    allowed = sorted(os.sched_getaffinity(0))
    core = allowed[-1] if core is None else core
    if core not in allowed:
        raise Mistake(f"--core is {core}, but this process may use {', '.join(map(str, allowed))} only.")
    os.sched_setaffinity(0, {core})
    os.environ.update(ONE_THREAD)
    return core


def one_gpu(alone: bool) -> None:
    """Gives JAX its share of the GPU: nearly all if it is `alone`."""
    os.environ.pop("XLA_PYTHON_CLIENT_MEM_FRACTION", None)  # JAX refuses both names at once
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "true"
    os.environ["XLA_CLIENT_MEM_FRACTION"] = JAX_SHARE["alone" if alone else "shared"]


def told(script: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Command, hardware, versions, date and commit, without a machine's own paths."""
    import torch
    import transformers

    found = hardware()
    found["versions"] |= {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"command": command_line(script, arguments), "xla_flags": os.environ.get("XLA_FLAGS", "")} | found


def matmul_peak(dtype: str, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """FLOP/s of the best square product in torch and in JAX, on the device that JAX computes on."""
    import jax
    import jax.numpy as jnp
    import torch

    kind = "cpu" if jax.default_backend() == "cpu" else "gpu"
    size = MATMUL[kind, dtype]
    one = torch.randn(size, size, device="cpu" if kind == "cpu" else "cuda").to(getattr(torch, dtype))
    other = jax.random.normal(jax.random.key(0), (size, size), jnp.float32).astype(dtype)
    product = jax.jit(jnp.matmul)

    def in_torch() -> None:
        one @ one
        synchronise()

    def in_jax() -> None:
        product(other, other).block_until_ready()

    best = {name: _quickest(run, clock) for name, run in (("torch", in_torch), ("jax", in_jax))}
    return {name: 2 * size**3 / seconds for name, seconds in best.items()}


def _quickest(run: Callable[[], None], clock: Callable[[], float]) -> float:
    run()
    best, ends = math.inf, clock() + MATMUL_SECONDS
    while clock() < ends:
        begun = clock()
        run()
        best = min(best, clock() - begun)
    return best


def synchronise() -> None:
    """Waits until torch's device has finished."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def memory(library: str, found: dict[str, Any]) -> Iterator[None]:
    """Writes the peak of a block into `found["peak_bytes"]`.

    On a CPU: resident memory above what was resident before (the weights). On a GPU: what torch had allocated, weights
    included, or JAX, whose peak is the process's own: nothing is written where an earlier block's was as high.
    """
    import jax

    if jax.default_backend() == "cpu":
        before = _resident("VmRSS", reset=True)
        yield
        found["peak_bytes"] = max(found.get("peak_bytes", 0), _resident("VmHWM") - before)
        return
    import torch

    def highest() -> int:
        stats = jax.devices()[0].memory_stats() or {}
        return torch.cuda.max_memory_allocated() if library == "torch" else stats.get("peak_bytes_in_use", 0)

    torch.cuda.reset_peak_memory_stats()
    before = 0 if library == "torch" else highest()
    yield
    if (now := highest()) > before:
        found["peak_bytes"] = max(found.get("peak_bytes", 0), now)


def _resident(name: str, reset: bool = False) -> int:
    if reset:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def release_memory() -> None:
    """Gives back what nobody holds any more."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
