"""What one sees while a sweep runs: a progress bar with the time left, and TensorBoard curves, one run a cell."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from memlaw_jax.training.step import Metrics

if TYPE_CHECKING:
    from memlaw_jax.training.lanes import Cell, Outcome

POINTS_PER_DISPATCH = 5


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


class Log:
    """A tqdm bar on standard error and TensorBoard scalars below `directory`."""

    def __init__(self, directory: str | os.PathLike[str], *, bar: bool = True):
        from tensorboardX import SummaryWriter

        self._open = SummaryWriter
        self._directory = Path(directory) / "tensorboard"
        self._show = bar
        self._writers: dict[str, SummaryWriter] = {}
        self.new = 0

    def begin(self, *, total: int, done: int, work: int) -> None:
        from tqdm import tqdm

        self._total, self._done = total, done
        layout = "{desc} {percentage:3.0f}% |{bar}| {elapsed} gone, {remaining} left"
        self._bar = tqdm(total=work, disable=not self._show, bar_format=layout, leave=False, smoothing=0.05)
        self._describe()

    def stepped(self, cell: Cell, step: int, metrics: Metrics, work: int) -> None:
        writer = self._writers.get(cell.name)
        if writer is None:
            writer = self._writers[cell.name] = self._open(str(self._directory / cell.name))
        count = len(metrics.loss)
        for i in sorted({int(i) for i in np.linspace(0, count - 1, min(count, POINTS_PER_DISPATCH))}):
            writer.add_scalar("train/nats_per_answer_token", float(metrics.loss[i]), step + i)
            writer.add_scalar("train/token_accuracy", float(metrics.accuracy[i]), step + i)
            writer.add_scalar("train/gradient_norm", float(metrics.gradient_norm[i]), step + i)
        self._bar.update(work)

    def finished(self, cell: Cell, outcome: Outcome) -> None:
        writer = self._writers.pop(cell.name)
        writer.add_scalar("final/nats_per_answer_token", outcome.final.loss, outcome.steps)
        writer.add_scalar("final/exact_match", outcome.final.exact_match, outcome.steps)
        writer.close()
        self.new += 1
        self._describe()

    def end(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._bar.close()

    def _describe(self) -> None:
        self._bar.set_description_str(f"{self._done + self.new} of {self._total} cells")
