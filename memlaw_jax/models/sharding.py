"""How frozen weights lie on a device mesh: which axis of which array is split over which axis of the mesh."""

from __future__ import annotations

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from memlaw_jax.errors import UserError

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
# Mesh axes by what they split; a mesh without such an axis leaves it whole.
RULES = {"width": "fsdp", "heads": "tensor", "feed_forward": "tensor", "vocabulary": "tensor"}


def weight_sharding(mesh: Mesh, path: tuple[str, ...], shape: tuple[int, ...]) -> NamedSharding:
    """Where the weight at `path` lives; a stack of layers has one leading axis more than the table says.

    Raises:
      UserError: an axis of the weight that the mesh does not divide.
    """
    name = ".".join(path[-2:])
    logical = AXES.get(name, ())
    logical = (None,) * (len(shape) - len(logical)) + logical
    split = [axis if (axis := RULES.get(kind or "")) in mesh.axis_names else None for kind in logical]
    for size, axis in zip(shape, split, strict=True):
        if axis is not None and size % mesh.shape[axis]:
            raise UserError(
                f"the mesh's axis {axis} has {mesh.shape[axis]} devices, which do not divide the {size} of {name}; "
                "choose a divisor."
            )
    return NamedSharding(mesh, PartitionSpec(*split))
