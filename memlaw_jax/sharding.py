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
    mesh = jax.sharding.get_abstract_mesh()

    def one(path: Any, leaf: Array) -> Array:
        logical = AXES.get(".".join(str(key.key) for key in path[-2:]), ())
        if "width" not in logical:
            return leaf
        axis = leaf.ndim - len(logical) + logical.index("width")
        return gathered(leaf, axis, width, mesh)

    return jax.tree.map_with_path(one, weights) if mesh.manual_axes else weights


def gathered(weight: Array, axis: int, width: int, mesh: Any = None) -> Array:
    """One weight, whole along `axis`: as `gather`, which says what is what by its path."""
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    parts = width // weight.shape[axis]
    if parts == 1:
        return weight
    names = next(names for names in (RULES["width"], AT_REST["width"]) if _product(mesh, names) == parts)
    return checkpoint_name(jax.lax.all_gather(weight, names, axis=axis, tiled=True), GATHERED)


def split(x: Array, *logical: str | None) -> Array:
    """An activation that lies on the mesh as the table says, on those axes that are left to the compiler."""
    mesh = jax.sharding.get_abstract_mesh()
    automatic = set(mesh.axis_names) - set(mesh.manual_axes) if mesh.manual_axes else set()
    spec: list[Any] = []
    for size, kind in zip(x.shape, logical, strict=True):
        axes = tuple(name for name in RULES.get(kind or "", ()) if name in automatic)
        spec.append(axes if axes and size % _product(mesh, axes) == 0 else None)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec)) if any(spec) else x


def shares(kind: str, size: int) -> int:
    """Into how many parts the compiler splits `size` of these."""
    mesh = jax.sharding.get_abstract_mesh()
    left = set(mesh.axis_names) - set(mesh.manual_axes) if mesh.manual_axes else set()
    count = _product(mesh, tuple(name for name in RULES[kind] if name in left))
    return count if size % count == 0 else 1


def by_hand(function: Callable, *heads: Array) -> Array:
    """`function` of arrays `[B, T, H, d]`, mapped over what is left of the mesh: samples, and heads where it can.

    For kernels, which the compiler cannot split.
    """
    mesh = jax.sharding.get_abstract_mesh()
    left = [name for name in mesh.axis_names if name not in mesh.manual_axes]
    if not (mesh.manual_axes and left):
        return function(*heads)

    def axes(kind: str, place: int) -> tuple[str, ...] | None:
        names = tuple(name for name in RULES[kind] if name in left)
        return names if names and all(x.shape[place] % _product(mesh, names) == 0 for x in heads) else None

    spec = PartitionSpec(axes("samples", 0), None, axes("heads", 2), None)
    mapped = jax.shard_map(function, in_specs=spec, out_specs=spec, axis_names=frozenset(left), check_vma=False)
    return mapped(*heads)


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
    """What is compiled for: the mesh's devices, which may be another machine's, or else JAX's own."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return getattr(device, "platform", None) or jax.default_backend()


def _present(mesh: Any, axes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in axes if name in mesh.axis_names and mesh.shape[name] > 1)


def _product(mesh: Any, axes: tuple[str, ...]) -> int:
    return int(np.prod([mesh.shape.get(name, 1) for name in axes], dtype=int))


def _names(entry: Any) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
