"""What a run shows while it works: a line for each phase of a task, and on a terminal one bar beneath them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from sefe_plugin.run.progress import CARRYING, SCORING, TRAINING, UNITS, Phase, newest_progress
from sefe_plugin.run.records import RunFolderError
from sefe_plugin.words import duration


#: Seconds between two looks at a task's progress.
_PAUSE = 0.5

_COUNTED = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
_UNCOUNTED = "{desc} [{elapsed}]"


class View:
    """Shows lines, and how far the task is that is at work.

    Args:
        say: Shows one line.
        terminal: Where the bar goes; None for no bar.
        verbose: Whether to show all that tasks say in place of the bar and of the lines for phases.
    """

    def __init__(self, say: Callable[[str], None], terminal: TextIO | None = None, verbose: bool = False):
        self._say, self._terminal, self.verbose = say, terminal, verbose

    def say(self, line: str) -> None:
        """Show a line, above the bar where there is one; where nobody reads it any more, the run goes on unseen."""
        above_the_bar = tqdm.external_write_mode(self._terminal) if self._terminal else nullcontext()
        with suppress(OSError), above_the_bar:
            self._say(line)

    @contextmanager
    def following(self, folder: Path, title: str, step_seconds: tuple[float, str] | None = None) -> Iterator[None]:
        """Show how far a task is, as long as the context lasts; the phase that an error ends in is not called done.

        Args:
            folder: Where its process says so.
            title: What is at work.
            step_seconds: Measured time of a step, and which task it was; None where there is none.
        """
        if self.verbose:
            yield
            return
        look = _Look(self, folder, title, step_seconds)
        ended = threading.Event()
        thread = threading.Thread(target=look.until, args=(ended,), name="sefe-progress", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            _end(ended, thread)
            raise
        else:
            _end(ended, thread)
            look.close()
            look.at(is_over=True)
        finally:
            look.close()

    def bar(self, phase: Phase, title: str) -> tqdm:
        """Return the bar of a phase, whose rate is that of the whole phase."""
        counted = {"total": phase.total, "initial": phase.before, "unit": f" {UNITS.get(phase.name, '')}"}
        bar = tqdm(
            desc=f"{title} {phase.name}",
            file=self._terminal,
            disable=self._terminal is None,
            leave=False,
            dynamic_ncols=True,
            smoothing=0,
            bar_format=_COUNTED if phase.total else _UNCOUNTED,
            **(counted if phase.total else {}),
        )
        bar.start_t = phase.began
        return bar


def _end(ended: threading.Event, thread: threading.Thread) -> None:
    ended.set()
    thread.join()


class _Look:
    """Looks at the progress of a process again and again; says what is new of it."""

    def __init__(self, view: View, folder: Path, title: str, step_seconds: tuple[float, str] | None):
        self._view, self._folder, self._title, self._step_seconds = view, folder, title, step_seconds
        self._begun = self._over = self._drawn = 0
        self._bar: tqdm | None = None

    def until(self, ended: threading.Event) -> None:
        """Look until the process has ended."""
        while not ended.wait(_PAUSE):
            self.at()

    def at(self, is_over: bool = False) -> None:
        """Look once; after the end of the process all phases are over."""
        try:
            phases = newest_progress(self._folder)
        except RunFolderError:  # of which nothing depends
            return
        for index, phase in enumerate(phases):
            if index >= self._begun:
                self._begun = index + 1
                self._say(begun(phase, self._step_seconds))
            if index >= self._over and (is_over or index + 1 < len(phases)):
                self._over = index + 1
                self._say(over(phase))
        if phases and not is_over:
            self._draw(phases[-1])

    def _draw(self, phase: Phase) -> None:
        if self._drawn < self._begun:
            self.close()
            self._bar, self._drawn = self._view.bar(phase, self._title), self._begun
        self._bar.update(phase.done - self._bar.n)
        self._bar.refresh()

    def _say(self, sentence: str | None) -> None:
        if sentence:
            self._view.say(f"{self._title}: {sentence}")

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def begun(phase: Phase, step_seconds: tuple[float, str] | None = None) -> str | None:
    """Say what a training is about to do; nothing of other phases.

    Example:
        >>> begun(Phase("training", 0, 0, total=88, samples=700), (0.5, "charts"))
        '700 samples, 88 steps, about 44 s by the steps of charts'
    """
    if phase.name != TRAINING:
        return None
    parts = [f"{phase.samples} samples"] if phase.samples is not None else []
    parts.append(f"{phase.total} steps" + (f", from step {phase.before} on" if phase.before else ""))
    if step_seconds:
        seconds, task = step_seconds
        parts.append(f"about {duration(seconds * (phase.total - phase.before))} by the steps of {task}")
    return ", ".join(parts)


def over(phase: Phase) -> str | None:
    """Say what a phase has done that is over; nothing of those that only prepare or save.

    Example:
        >>> over(Phase("scoring", 10, 70, done=64, total=64))
        'scored 64 answers in 1 min 0 s'
    """
    took = duration(phase.seen - phase.began)
    if phase.name == TRAINING:
        return f"trained in {took}"
    if phase.name == SCORING:
        return f"scored {phase.total} answers in {took}"
    return f"carried on in {took}" if phase.name == CARRYING else None
