"""Which axis of which array is split over which axes of the mesh, and what a program does about it.

Programs are mapped (`shard_map`) over the axes along which they are the same on every device: lanes and weights are cut
by hand, so that nothing can cross `adapters`, and weights are gathered block by block. Samples and heads are left to
the compiler, which is told where they lie.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array

from memlaw_jax.errors import UserError
from memlaw_jax.mesh import ADAPTERS, DATA, FSDP, TENSOR

# What each axis of a weight runs over, by the last names of its path; a stack's layers and all that is not named here
# (norms) stay whole.
AXES: dict[str, tuple[str | None, ...]] = {
    "embed_tokens.embedding": ("vocabulary", "width"),
    "q_proj.kernel": ("width", "heads"),
    "k_proj.kernel": ("width", "heads"),
    "v_proj.kernel": ("width", "heads"),
    "q_proj.bias": ("heads",),
    "k_proj.bias": ("heads",),
    "v_proj.bias": ("heads",),
    "o_proj.kernel": ("heads", "width"),
    "gate_proj.kernel": ("width", "feed_forward"),
    "up_proj.kernel": ("width", "feed_forward"),
    "down_proj.kernel": ("feed_forward", "width"),
    "lm_head.kernel": ("width", "vocabulary"),
}
# Mesh axes by what they split, in training. All that is not named, features and data among it, every device holds.
RULES: dict[str, tuple[str, ...]] = {
    "lanes": (ADAPTERS, FSDP),
    "samples": (DATA,),
    "width": (FSDP,),
    "heads": (TENSOR,),
    "feed_forward": (TENSOR,),
    "vocabulary": (TENSOR,),
}
# While a model is loaded and its features are computed there are no lanes yet, and their axes help to hold it.
AT_REST = RULES | {"width": (ADAPTERS, DATA, FSDP)}
GATHERED = "gathered"  # the name, for rematerialisation, of a weight that was gathered for its use


def weight_sharding(
    mesh: Mesh, path: tuple[str, ...], shape: tuple[int, ...], rules: dict[str, tuple[str, ...]] = AT_REST
) -> NamedSharding:
    """Where the weight at `path` lives; a stack of layers has one leading axis more than the table says.

    Raises:
      UserError: an axis of the weight that the mesh does not divide.
    """
    name = ".".join(path[-2:])
    logical = AXES.get(name, ())
    logical = (None,) * (len(shape) - len(logical)) + logical
    split = []
    for size, kind in zip(shape, logical, strict=True):
        axes = _present(mesh, rules.get(kind or "", ()))
        if size % _product(mesh, axes):  # what only helps to hold it may be left out
            axes = _present(mesh, RULES.get(kind or "", ()))
        if size % (count := _product(mesh, axes)):
            raise UserError(
                f"the mesh's axis {' × '.join(axes)} has {count} devices, which do not divide the {size} of {name}; "
                "choose a divisor."
            )
        split.append(axes or None)
    return NamedSharding(mesh, PartitionSpec(*split))


def weight_shardings(mesh: Mesh, weights: Any, rules: dict[str, tuple[str, ...]] = RULES) -> Any:
    """`weight_sharding` of each of a tree of weights."""

    def one(path: Any, leaf: Any) -> NamedSharding:
        return weight_sharding(mesh, tuple(str(getattr(key, "key", key)) for key in path), leaf.shape, rules)

    return jax.tree.map_with_path(one, weights)


def over(mesh: Mesh, function: Callable, ins: tuple[Any, ...], outs: Any, axes: tuple[str, ...]) -> Callable:
    """`function` mapped over these axes of the mesh, and over those of one device, which may as well be.

    `ins` and `outs` are specs or shardings, or trees of them, in which all other axes are left out.
    """
    manual = {name for name in mesh.axis_names if name in axes or mesh.shape[name] == 1}

    def kept(place: PartitionSpec | NamedSharding) -> PartitionSpec:
        spec = place.spec if isinstance(place, NamedSharding) else place
        return PartitionSpec(*[tuple(name for name in _names(entry) if name in manual) or None for entry in spec])

    ins, outs = jax.tree.map(kept, (ins, outs), is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))
    return jax.shard_map(
        function, mesh=mesh, in_specs=ins, out_specs=outs, axis_names=frozenset(manual), check_vma=False
    )


def gather(weights: Any, width: int) -> Any:
    """Weights of which each device that this is mapped over holds a part, with all their `width`."""

    def one(path: Any, leaf: Array) -> Array:
        logical = AXES.get(".".join(str(key.key) for key in path[-2:]), ())
        return gathered(leaf, logical.index("width") - len(logical), width) if "width" in logical else leaf

    return jax.tree.map_with_path(one, weights)


def gathered(weight: Array, axis: int, width: int) -> Array:
    """One weight, whole along `axis`: as `gather`, which says what is what by its path."""
    parts = width // weight.shape[axis]
    if parts == 1:
        return weight
    mesh = jax.sharding.get_abstract_mesh()
    names = next(names for names in (RULES["width"], AT_REST["width"]) if _product(mesh, names) == parts)
    return checkpoint_name(jax.lax.all_gather(weight, names, axis=axis % weight.ndim, tiled=True), GATHERED)


def split(x: Array, *logical: str | None) -> Array:
    """An activation that lies on the mesh as the table says, on those axes that are left to the compiler."""
    spec = [_split_among(kind, size) for kind, size in zip(logical, x.shape, strict=True)]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec)) if any(spec) else x


def shares(kind: str, size: int) -> int:
    """Into how many parts the compiler splits `size` of these."""
    return _product(jax.sharding.get_abstract_mesh(), _split_among(kind, size) or ())


def by_hand(function: Callable, *heads: Array) -> Array:
    """`function` of arrays `[B, T, H, d]`, mapped over what is left of the mesh: samples, and heads where it can.

    For kernels, which the compiler cannot split.
    """
    left = _left_to_compiler()
    if not left:
        return function(*heads)
    samples, heads_split = (
        _split_among("samples", heads[0].shape[0]),
        [_split_among("heads", x.shape[2]) for x in heads],
    )
    spec = PartitionSpec(samples, None, heads_split[0] if all(heads_split) else None, None)
    mapped = jax.shard_map(function, in_specs=spec, out_specs=spec, axis_names=frozenset(left), check_vma=False)
    return mapped(*heads)


def _left_to_compiler() -> set[str]:
    """Mesh axes that the function being traced is not mapped over, if it is mapped at all."""
    mesh = jax.sharding.get_abstract_mesh()
    return set(mesh.axis_names) - set(mesh.manual_axes) if mesh.manual_axes else set()


def _split_among(kind: str | None, size: int) -> tuple[str, ...] | None:
    """The axes among which the compiler is to split `size` of these; None where it is not, or they do not divide it."""
    left = _left_to_compiler()
    axes = tuple(name for name in RULES.get(kind or "", ()) if name in left)
    return axes if axes and size % _product(jax.sharding.get_abstract_mesh(), axes) == 0 else None


def to_host(tree: Any) -> Any:
    """NumPy arrays of arrays that may be spread over devices of other processes, all of which must ask."""

    def one(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            if not leaf.is_fully_replicated:
                mesh: Any = leaf.sharding.mesh  # type: ignore[attr-defined]
                leaf = copied(NamedSharding(mesh, PartitionSpec()))(leaf)
            return np.asarray(leaf.addressable_data(0))
        return np.asarray(leaf)

    return jax.tree.map(one, tree)


@functools.cache
def copied(place: Sharding) -> Callable:
    """Copies an array of this mesh to another place on it."""
    return jax.jit(lambda x: x, out_shardings=place)


def platform() -> str:
    """What is compiled for, `cpu`, `gpu` or `tpu`: the mesh's devices, which may be another machine's, or JAX's own."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    found = getattr(device, "platform", None) or jax.default_backend()
    return "gpu" if found in ("cuda", "rocm") else found


def _present(mesh: Any, axes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in axes if name in mesh.axis_names and mesh.shape[name] > 1)


def _product(mesh: Any, axes: tuple[str, ...]) -> int:
    return int(np.prod([mesh.shape.get(name, 1) for name in axes], dtype=int))


def _names(entry: Any) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
