"""How far a training is, as a line on a terminal, and otherwise a line for each epoch."""

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from service.training.trainer import Progress


class Bar:
    """A live line: examples done and a second, loss, the last epoch's metric, time left. Drawn on terminals only."""

    def __init__(self, task: str, examples: int, epochs: int, resumed: bool = False) -> None:
        """`examples` are those of an epoch; `resumed`: whether a training goes on that was cut."""
        from tqdm import tqdm

        self._examples, self._epochs = examples, epochs
        self._resumed = resumed  # until it is said from where
        self._bar = tqdm(desc=task, unit="examples", unit_scale=True, disable=None, file=sys.stderr)
        self._value = ""
        self.kept = False  # whether there is anything to go on from

    def show(self, run: int, runs: int, progress: "Progress") -> None:
        which = f"run {run} of {runs}, " if runs > 1 else ""
        if self._resumed:
            self._say_from_where(which, run, progress)
        if progress.value is not None:
            self.kept, self._value = True, f", validation {progress.value:.4f}"
            if self._bar.disable:
                click.echo(f"{which}epoch {progress.epoch}: loss {progress.loss:.4f}{self._value}", err=True)
        elif not self._bar.disable:
            self._bar.total = runs * self._epochs * self._examples
            self._skip_to(self._done(run, progress, progress.step - 1))
            line = f"{which}epoch {progress.epoch}, loss {progress.loss:.3f}{self._value}"
            self._bar.set_postfix_str(line, refresh=False)
            self._bar.update(self._done(run, progress, progress.step) - self._bar.n)

    def close(self) -> None:
        self._bar.close()

    def _say_from_where(self, which: str, run: int, progress: "Progress") -> None:
        self._resumed, self.kept = False, run > 1 or progress.epoch > 1
        found = f"goes on from {which}epoch {progress.epoch}" if self.kept else "no checkpoint: begins anew"
        self._bar.write(found, file=sys.stderr)

    def _done(self, run: int, progress: "Progress", step: int) -> int:
        """Examples after a step. An epoch's batches are of one size but for one, so it is their share of the epoch."""
        steps = progress.steps // self._epochs
        return (run - 1) * self._epochs * self._examples + step * self._examples // steps

    def _skip_to(self, done: int) -> None:
        """What an earlier call did, and what an early stop left out, is not done now: it says nothing of the speed."""
        if skipped := done - self._bar.n:
            self._bar.initial += skipped
            self._bar.n = self._bar.last_print_n = done
