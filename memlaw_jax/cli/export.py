"""`memlaw export`: an adapter for other tools."""

from __future__ import annotations

import argparse
import dataclasses
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from memlaw_jax.errors import UserError

if TYPE_CHECKING:
    from etils import epath

    from memlaw_jax.models import Adapter

NAME = "export"
HELP = (
    "Write a trained adapter for PEFT and vLLM, as a merged model, for plain PyTorch, or as the paper's release does."
)
EXAMPLE = """examples:
  memlaw export runs/mine/adapter --format peft --out runs/mine/peft
  memlaw export runs/mine/adapter --format merged --dtype float32 --out runs/mine/merged

formats:
  peft     adapter_model.safetensors and adapter_config.json; linear targets only
  merged   a whole model for transformers, with the adapter in its weights; linear targets only
  torch    the adapter and torch_hook.py, which puts it on a PyTorch model; every target, the mlp bypass too
  release  layer_<L>.pt, as the paper's PyTorch release stores its mlp bypasses; needs torch

A merged weight is rounded to the dtype, and in bfloat16 that can cost some of what the adapter remembers; float32 keeps
it. ADAPTER is a folder with memlaw_adapter.json."""


def arguments(command: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    command.add_argument("adapter", metavar="ADAPTER", help="folder of the adapter")
    command.add_argument("--format", required=True, choices=tuple(_WRITERS), help="what to write")
    command.add_argument("--out", metavar="DIR", required=True, help="folder to write to")
    command.add_argument(
        "--model", metavar="M", help="the base model, a directory or hub id (default: the one it was trained on)"
    )
    command.add_argument("--dtype", metavar="D", help="of merged weights (default: that of the base's files)")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Exports; returns the JSON result and the words for a person."""
    from memlaw_jax.models import load_adapter
    from memlaw_jax.paths import as_path

    if args.dtype and args.format != "merged":
        raise UserError(f"--dtype is of merged weights; --format {args.format} stores float32.")
    adapter = load_adapter(args.adapter)
    if args.model:
        adapter = dataclasses.replace(adapter, model=args.model)
    out = as_path(args.out)
    files, use = _WRITERS[args.format](adapter, out, args)
    result = {
        "out": str(out),
        "format": args.format,
        "model": adapter.model,
        "rank": adapter.lora.rank,
        "targets": list(adapter.lora.targets),
        "layers": list(adapter.layers),
        "scale": adapter.lora.scale,
        "files": [str(file) for file in files],
    }
    words = f"Rank {adapter.lora.rank} on {', '.join(adapter.lora.targets)} of {_span(adapter.layers)}."
    return result, "\n".join([words, "Written:", *[f"  {file}" for file in files], "Use it:", f"  {use}"])


def _peft(adapter: Adapter, out: epath.Path, args: argparse.Namespace) -> tuple[list[epath.Path], str]:
    from memlaw_jax.interop import to_peft
    from memlaw_jax.interop.files import ADAPTER_CONFIG
    from memlaw_jax.interop.peft import WEIGHTS

    _check_if_at_hand(adapter, bool(args.model))
    to_peft(adapter, None, out)
    return [out / WEIGHTS, out / ADAPTER_CONFIG], f'peft.PeftModel.from_pretrained(model, "{out}")'


def _merged(adapter: Adapter, out: epath.Path, args: argparse.Namespace) -> tuple[list[epath.Path], str]:
    from memlaw_jax.interop import write_merged
    from memlaw_jax.interop.merge import check_merge, merged_files
    from memlaw_jax.models import load_base
    from memlaw_jax.models.base import model_directory

    source = model_directory(adapter.model)
    check_merge(adapter, out, source)
    base = load_base(adapter.model, args.dtype or _stored_dtype(source))
    with _bar(not args.json) as listen:
        write_merged(base, adapter, out, listen=listen)
    return merged_files(
        out
    ), f'transformers.AutoModelForCausalLM.from_pretrained("{out}", dtype="auto")  # {base.dtype}'


def _torch(adapter: Adapter, out: epath.Path, args: argparse.Namespace) -> tuple[list[epath.Path], str]:
    from etils import epath

    from memlaw_jax.interop.files import refuse_model, writing
    from memlaw_jax.models.adapter import META, WEIGHTS

    _check_if_at_hand(adapter, bool(args.model))
    refuse_model(out)
    adapter.save(out)
    hook = out / "torch_hook.py"
    with writing(out):
        hook.write_text((epath.resource_path("memlaw_jax") / "interop" / hook.name).read_text())
    use = f'from torch_hook import attach; handle = attach(model, "{out}")  # handle.remove() takes it off'
    return [out / WEIGHTS, out / META, hook], use


def _release(adapter: Adapter, out: epath.Path, args: argparse.Namespace) -> tuple[list[epath.Path], str]:
    from memlaw_jax.interop import to_release

    _check_if_at_hand(adapter, bool(args.model))
    files = to_release(adapter, out)
    return files, f'torch.load("{files[0]}")  # the output of that layer\'s mlp gains x @ lora_A @ lora_B'


_WRITERS: dict[str, Callable[..., tuple[list[Any], str]]] = {
    "peft": _peft,
    "merged": _merged,
    "torch": _torch,
    "release": _release,
}


def _check_if_at_hand(adapter: Adapter, named: bool) -> None:
    """Against the model's config, where that is on this machine: no weight is read, nothing is fetched."""
    from etils import epath

    from memlaw_jax.models.base import EMBEDDED, looks_like_hub_id, model_directory
    from memlaw_jax.models.checkpoint import fingerprint, read_config

    if adapter.model == EMBEDDED or epath.Path(adapter.model).exists():
        directory = model_directory(adapter.model)
        config = read_config(directory)
        adapter.check(config, fingerprint(directory))
    elif not looks_like_hub_id(adapter.model):
        said = f"there is no model directory {adapter.model}"
        if named:
            raise UserError(f"{said}; give --model a directory, a hub id (owner/name) or 'embedded'.")
        warnings.warn(f"{said} any more, so the adapter is not checked against it; name it with --model", stacklevel=2)


def _stored_dtype(directory: epath.Path) -> str:
    """What `config.json` says its weights are; float32 where it does not."""
    raw = json.loads((directory / "config.json").read_text())
    return str(raw.get("dtype") or raw.get("torch_dtype") or "float32")


@contextmanager
def _bar(wanted: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar over tensors."""
    if not wanted:
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit="tensor", desc="merging", leave=False) as bar:

        def listen(done: int, in_all: int) -> None:
            bar.total = in_all
            bar.update(done - bar.n)

        yield listen


def _span(layers: tuple[int, ...]) -> str:
    """`layer 3`, `layers 0 to 35` or `layers 1, 4, 7`."""
    if len(layers) > 2 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]} to {layers[-1]}"
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
