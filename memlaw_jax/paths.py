"""Where things are kept: a local folder or a bucket's URL, and files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import logging
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import fsspec
from etils import epath

from memlaw_jax.errors import UserError

CLIENTS = {
    "gs": "gcsfs: pip install 'memlaw-jax[gcs]'",
    "s3": "s3fs: pip install s3fs",
    "az": "adlfs: pip install adlfs",
    "hf": "huggingface_hub: pip install huggingface_hub",
}
NOTHING_THERE = (FileNotFoundError, NotADirectoryError)
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(/+)([^/]*)")


def as_path(place: epath.PathLike) -> epath.Path:
    """A local path, or a bucket's URL such as `gs://bucket/runs`; nothing is looked up.

    Raises:
      UserError: a URL that no bucket has, or whose client is not installed.
    """
    url = _URL.match(os.fspath(place))
    if url is None:
        return epath.Path(place)
    text, (scheme, slashes, bucket) = os.fspath(place), url.groups()
    if len(slashes) != 2 or not bucket:  # pathlib.Path takes one of the two slashes away
        raise UserError(
            f"{text} is neither a local folder nor a bucket; write a bucket's folder as gs://bucket/folder."
        )
    try:
        path = epath.Path(text)
    except KeyError:
        known = ", ".join(f"{name}://" for name in CLIENTS)
        raise UserError(f"{text}: {scheme}:// is not known; give a local folder, or a bucket by {known}.") from None
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs a traceback for each try; the last is raised
    # with TensorFlow in place etils uses its clients
    if scheme in CLIENTS and importlib.util.find_spec("tensorflow") is None:
        try:
            fsspec.get_filesystem_class(scheme)
        except ImportError:
            raise UserError(f"{text} needs {CLIENTS[scheme]}") from None
    return path


def is_local(path: epath.PathLike) -> bool:
    """Whether a path is one of this machine's file system, which can append, rename and lock; a bucket cannot."""
    return "://" not in os.fspath(path)


def absolute(path: epath.Path) -> epath.Path:
    """The path from the root; a URL is one already, and `resolve` would put it below the working directory."""
    return path.resolve() if is_local(path) else path


def folder_of(place: epath.PathLike) -> epath.Path:
    """A folder itself, or the one that a file is in.

    Raises:
      UserError: see `as_path`; or it cannot be looked up.
    """
    path = as_path(place)
    with reading(path):
        return path if path.is_dir() else path.parent


def make_folder(path: epath.Path) -> None:
    """Makes a local folder. A bucket has none to be made, and its client might make a bucket of a misspelt name.

    Raises:
      OSError: it cannot be made.
    """
    if is_local(path):
        path.mkdir(parents=True, exist_ok=True)


def read_if_there(path: epath.Path) -> bytes | None:
    """What a file holds, None where there is no such file.

    It does not ask first: the clients of buckets answer "no" where the network failed.

    Raises:
      UserError: it cannot be read.
    """
    try:
        with reading(path):
            return path.read_bytes()
    except NOTHING_THERE:
        return None


def write_whole(path: epath.Path, data: bytes) -> None:
    """Writes a file, so that whoever reads it at any time finds it whole: as it was before, or as it is now.

    On a local disk the new one is written beside it, synced and moved to its place; a bucket's objects appear when they
    are complete.

    Raises:
      OSError: it cannot be written; what was there before still is.
    """
    if not is_local(path):
        # In a thread, because a signal's exception between open and write would close, and so store, an empty object;
        # Python raises it in the main thread only.
        try:
            with refusals(path), ThreadPoolExecutor(1) as alone:
                alone.submit(path.write_bytes, data).result()
        except FileNotFoundError as error:  # which says no more than an address
            raise FileNotFoundError(errno.ENOENT, "there is no such bucket, or you may not see it") from error
        return
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def refusals(path: epath.PathLike) -> Iterator[None]:
    """Turns whatever the client of a bucket raises into the OSError that a local disk raises."""
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        if is_local(path):
            raise
        raise OSError(f"{type(error).__name__}: {reason(error)}") from error


@contextlib.contextmanager
def reading(path: epath.PathLike) -> Iterator[None]:
    """Turns what keeps a file from being read into one sentence; that it is not there stays what it is."""
    try:
        with refusals(path):
            yield
    except NOTHING_THERE:
        raise
    except OSError as error:
        raise UserError(f"cannot read {os.fspath(path)}: {reason(error)}.") from error


def reason(error: Exception) -> str:
    """The first line of what an error says."""
    return str(getattr(error, "strerror", None) or error).strip().partition("\n")[0]


def _sync_folder(path: epath.Path) -> None:
    """Makes a rename last through a power cut."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
