"""What one sees while a sweep runs: a progress bar with the time left, and TensorBoard curves, one run a cell."""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from etils import epath

from memlaw_jax.paths import as_path, is_local, make_folder, write_whole
from memlaw_jax.training.step import Metrics

if TYPE_CHECKING:
    from memlaw_jax.training.cell import Cell, Outcome

POINTS_PER_DISPATCH = 5
STORED_EVERY = 300.0  # seconds; a curve in a bucket is stored as a whole each time, while the training waits


class Watcher(Protocol):
    """Is told how a sweep goes on."""

    def begin(self, *, total: int, done: int, work: int) -> None:
        """The grid's cells, those finished earlier, and the work ahead in token visits."""
        ...

    def stepped(self, cell: Cell, step: int, metrics: Metrics, work: int) -> None:
        """A cell took len(metrics.loss) steps from `step` on."""
        ...

    def finished(self, cell: Cell, outcome: Outcome) -> None:
        """A cell is saved."""
        ...

    def end(self) -> None:
        """The sweep is over, or was stopped."""
        ...


class _Object:
    """What tensorboardX writes to in a bucket, whatever client it has: an object that is stored whole when flushed."""

    def __init__(self, url: str):
        self._path, self._data = as_path(url), io.BytesIO()
        self.write = self._data.write

    def flush(self) -> None:
        write_whole(self._path, self._data.getvalue())

    def close(self) -> None:  # tensorboardX flushes first
        pass


class _Curve:
    """The scalars of one TensorBoard run, written where they are added.

    tensorboardX's SummaryWriter writes in a thread; when a full disk kills that, adding a scalar waits for ever. Here
    the first write that fails ends the curve and nothing else: a sweep's results are its records.
    """

    def __init__(self, directory: epath.Path):
        from tensorboardX import record_writer, summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event

        self._event, self._scalar = Event, summary.scalar
        self._writer: EventsWriter | None = None
        self._local, self._stored = is_local(directory), time.monotonic()
        place = str(directory / "events")
        with self._ending():
            make_folder(directory)
            if not self._local:
                record_writer.register_writer_factory(place.partition(":")[0], SimpleNamespace(open=_Object))
            self._writer = EventsWriter(place)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """One point."""
        with self._ending():
            if self._writer and np.isfinite(value):
                event = self._event(wall_time=time.time(), step=step, summary=self._scalar(tag, value))
                self._writer.write_event(event)
                if not self._local and time.monotonic() - self._stored >= STORED_EVERY:
                    self._writer.flush()
                    self._stored = time.monotonic()

    def close(self) -> None:
        """Writes what is buffered."""
        with self._ending():
            if self._writer:
                self._writer.close()

    @contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None
            warnings.warn(f"a TensorBoard curve ends here, it cannot be written: {error}", stacklevel=2)


class Log:
    """A tqdm bar on standard error and TensorBoard scalars below `directory`."""

    def __init__(self, directory: epath.PathLike, *, bar: bool = True):
        self._directory = as_path(directory) / "tensorboard"
        self._show = bar
        self._curves: dict[str, _Curve] = {}
        self.new = 0

    def begin(self, *, total: int, done: int, work: int) -> None:
        from tqdm import tqdm

        self._total, self._done, self._status = total, done, "compiling"
        layout = "{desc} {percentage:3.0f}% |{bar}| {elapsed} gone, {remaining} left"
        self._bar = tqdm(total=work, disable=not self._show, bar_format=layout, leave=False, smoothing=0.05)
        self._describe()

    def stepped(self, cell: Cell, step: int, metrics: Metrics, work: int) -> None:
        if cell.name not in self._curves:
            self._curves[cell.name] = _Curve(self._directory / cell.name)
            self._bar.update(work * step // len(metrics.loss))  # what it did before it was stopped
        writer = self._curves[cell.name]
        count = len(metrics.loss)
        for i in sorted({int(i) for i in np.linspace(0, count - 1, min(count, POINTS_PER_DISPATCH))}):
            writer.add_scalar("train/nats_per_answer_token", float(metrics.loss[i]), step + i)
            writer.add_scalar("train/token_accuracy", float(metrics.accuracy[i]), step + i)
            writer.add_scalar("train/share_above_half", float(metrics.above_half[i]), step + i)
            writer.add_scalar("train/exact_match", float(metrics.exact_match[i]), step + i)
            writer.add_scalar("train/active_tokens", float(metrics.active[i]), step + i)
            writer.add_scalar("train/gradient_norm", float(metrics.gradient_norm[i]), step + i)
        self._status = (
            f"rank {cell.lora.rank}: {np.mean(metrics.loss):.3g} nats, {np.mean(metrics.above_half):.0%} of tokens "
            f"above ½, {np.mean(metrics.exact_match):.0%} recalled"
        )
        self._describe()
        self._bar.update(work)

    def finished(self, cell: Cell, outcome: Outcome) -> None:
        writer = self._curves.pop(cell.name)
        writer.add_scalar("final/nats_per_answer_token", outcome.final.loss, outcome.steps)
        writer.add_scalar("final/exact_match", outcome.final.exact_match, outcome.steps)
        writer.close()
        self.new += 1
        self._describe()

    def end(self) -> None:
        for writer in self._curves.values():
            writer.close()
        self._bar.close()

    def _describe(self) -> None:
        cells = f"{self._done + self.new} of {self._total} cells; " if self._total > 1 else ""
        self._bar.set_description_str(cells + self._status, refresh=False)
