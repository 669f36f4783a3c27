"""XLA's flags by what they are for: named groups that a config lists under `xla_flags`.

TPU groups are read by libtpu from LIBTPU_INIT_ARGS, GPU groups by XLA from XLA_FLAGS, both when a process first meets
its devices. An unknown flag ends the process, so a test compiles something with every group. What each flag does is in
OpenXLA's "XLA Flags Guidance" and NVIDIA's JAX-Toolbox; no group changes a number beyond the order of a sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memlaw_jax.errors import UserError

VARIABLES = {"tpu": "LIBTPU_INIT_ARGS", "gpu": "XLA_FLAGS"}


@dataclass(frozen=True, kw_only=True)
class FlagGroup:
    """Flags that serve one purpose; `does` and `helps` say which, and when it pays."""

    platform: str
    flags: tuple[str, ...]
    does: str
    helps: str


GROUPS: Mapping[str, FlagGroup] = {
    "overlap-gather": FlagGroup(
        platform="tpu",
        flags=(
            "--xla_enable_async_all_gather=true",
            "--xla_tpu_enable_async_collective_fusion=true",
            "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
            "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",
            "--xla_tpu_overlap_compute_collective_tc=true",
        ),
        does="gathers the weights of what comes next while the cores multiply, over several products if need be",
        helps="frozen weights split over fsdp",
    ),
    "pipeline-gather": FlagGroup(
        platform="tpu",
        flags=(
            "--xla_should_allow_loop_variant_parameter_in_chain=enabled",
            "--xla_should_add_loop_invariant_op_in_chain=enabled",
            "--xla_tpu_enable_ici_ag_pipelining=true",
        ),
        does="begins to gather a block's weights while the block before it runs",
        helps="fsdp, where a block's own products are too short to hide its gathers; takes a block's memory more",
    ),
    "overlap-reduce": FlagGroup(
        platform="tpu",
        flags=(
            "--xla_tpu_enable_async_collective_fusion=true",
            "--xla_tpu_enable_async_collective_fusion_fuse_all_reduce=true",
        ),
        does="sums over chips while the cores multiply",
        helps="heads and feed-forward split over tensor, samples split over data",
    ),
    "slices": FlagGroup(
        platform="tpu",
        flags=(
            "--xla_tpu_enable_data_parallel_all_reduce_opt=true",
            "--xla_tpu_data_parallel_opt_different_sized_ops=true",
        ),
        does="sums gradients over the data centre's network a piece at a time, beside the backward pass",
        helps="data split over several slices; adapters split over them need nothing",
    ),
    "less-memory": FlagGroup(
        platform="tpu",
        flags=("--xla_latency_hiding_scheduler_rerun=5",),
        does="schedules again with less memory, up to five times, where the first schedule has no room",
        helps="a step that is only just too large",
    ),
    "gpu-overlap": FlagGroup(
        platform="gpu",
        flags=(
            "--xla_gpu_enable_latency_hiding_scheduler=true",
            "--xla_gpu_enable_pipelined_all_gather=true",
            "--xla_gpu_enable_while_loop_double_buffering=true",
        ),
        does="communicates while the cores multiply, and gathers the next block's weights ahead",
        helps="fsdp, tensor or data on several GPUs",
    ),
    "gpu-cublas": FlagGroup(
        platform="gpu",
        flags=("--xla_gpu_enable_triton_gemm=false",),
        does="takes cuBLAS for every product instead of tuning Triton's against it",
        helps="large products, which cuBLAS does as fast; compiles sooner",
    ),
}


def flag_environment(names: Sequence[str], platform: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment variable of the groups of one platform, after what `environment` already sets in it.

    A flag that is set there wins. Groups of another platform are left out, so that a config serves several.

    Raises:
      UserError: an unknown group.
    """
    if unknown := [name for name in names if name not in GROUPS]:
        raise UserError(f"xla_flags names {unknown[0]!r}; allowed are {', '.join(GROUPS)}.")
    variable = VARIABLES.get(platform)
    if variable is None:
        return {}
    present = environment.get(variable, "").split()
    known = {flag.partition("=")[0] for flag in present}
    wanted = [flag for name in names if GROUPS[name].platform == platform for flag in GROUPS[name].flags]
    added = [flag for flag in dict.fromkeys(wanted) if flag.partition("=")[0] not in known]
    return {variable: " ".join(present + added)} if added else {}
