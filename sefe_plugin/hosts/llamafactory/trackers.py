"""The trackers of `report_to`: one run for each task, with steps that count on, and what the task was worth.

The Trainer makes the callbacks of the trackers itself, and ends them with the training. Here they are made before it,
by the same function of transformers, and given to it as one callback. So a log has the steps of all tasks before added
to its own, and the scores still find every tracker open. The Trainer's own state, and so checkpoints and schedules,
is not touched.
"""

import logging
import os
from copy import copy
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from sefe_plugin.evaluation.results import SCORES_FILE
from sefe_plugin.files import read_json
from sefe_plugin.run.costs import Cost, read_cost
from sefe_plugin.run.place import Place, place_of


logger = logging.getLogger(__name__)

#: Environment variables by which a user names the runs of a tracker.
_NAMES = ("WANDB_NAME", "MLFLOW_RUN_NAME")
#: Environment variables by which trackers gather runs, and those beside them with which a user has chosen already.
_GROUPS = {"WANDB_RUN_GROUP": (), "MLFLOW_EXPERIMENT_NAME": ("MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID")}
#: What trackers read of the end of a training; the optimizer and the data need not stay until then.
_READ_AT_THE_END = ("model", "processing_class")


class Trackers:
    """The callbacks of a task's trackers, as one callback of its Trainer.

    Args:
        training_args: The host's arguments of the training; get the name of the task's run where they have none.
        finetuning_args: Those of the host's own tracker, `use_swanlab`.
        callbacks: The host's callbacks.

    Attributes:
        callbacks: Those callbacks for the Trainer, the trackers as the first of them: as in an ordinary run, they are
            open before the host tells them of its arguments.
    """

    def __init__(self, training_args: TrainingArguments, finetuning_args: Any, callbacks: list | None):
        self._args, self._end = training_args, None
        self._report_to = training_args.report_to
        is_on = self._report_to or finetuning_args.use_swanlab
        self._place = place_of(Path(training_args.output_dir).absolute()) if is_on else None
        if self._place is not None:
            _name(training_args, self._place)
        self._steps_before = self._place.steps_before() if self._place else 0
        own = [callback for callback in callbacks or () if finetuning_args.use_swanlab and _is_swanlab(callback)]
        self._trackers = [*own, *(tracker() for tracker in get_reporting_integration_callbacks(self._report_to))]
        self.callbacks = [callback for callback in callbacks or () if callback not in own]
        if self._trackers:
            self.callbacks.insert(0, self)

    def __getattr__(self, name: str) -> Any:
        """Pass an event of the Trainer on to every tracker."""
        if not name.startswith("on_"):
            raise AttributeError(name)

        def pass_on(*arguments: Any, **kwargs: Any) -> None:
            for tracker in self._trackers:
                getattr(tracker, name)(*arguments, **kwargs)

        return pass_on

    def hide(self) -> None:
        """Keep the Trainer that is made next from making trackers, too; it gets them with `callbacks`."""
        if self._trackers:
            self._args.report_to = []

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put back what `hide` has taken away; trackers log the arguments."""
        args.report_to = self._report_to
        self.__getattr__("on_init_end")(args, state, control, **kwargs)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Pass logs on, at the step in the whole sequence."""
        self.__getattr__("on_log")(args, self._in_sequence(state), control, **kwargs)

    def on_train_end(self, *event: Any, **kwargs: Any) -> None:
        """Keep the end of the training back, until `close`; of what it holds, no more than trackers read then."""
        self._end = event, {key: value if key in _READ_AT_THE_END else None for key, value in kwargs.items()}

    def begin(self, model: Any) -> None:
        """Open the trackers in a process that only scores, at the step at which the training ended.

        Args:
            model: The trained model; None where another engine answers.
        """
        cost = read_cost(Path(self._args.output_dir))
        step = cost.steps + cost.steps_before if cost else 0
        is_first = self._args.process_index == 0
        state = TrainerState(global_step=step, max_steps=step, is_world_process_zero=is_first)
        event = (self._args, state, TrainerControl())
        self._pass_on_if_possible("on_train_begin", *event, model=model)
        self.on_train_end(*event, model=model)

    def log(self, values: dict[str, float]) -> None:
        """Log values at the step at which the training has ended."""
        if self._end:
            (args, state, control), kwargs = self._end
            self._pass_on_if_possible("on_log", args, self._in_sequence(state), control, **kwargs, logs=values)

    def log_scores(self) -> None:
        """Log what the answers are worth that lie in the task's folder; called in the first process."""
        if self._trackers:
            self.log(score_logs(read_json(Path(self._args.output_dir) / SCORES_FILE), self._place))

    def close(self) -> None:
        """Let the trackers end."""
        if self._end:
            event, kwargs = self._end
            self._end = None
            self._pass_on_if_possible("on_train_end", *event, **kwargs)

    def _in_sequence(self, state: TrainerState) -> TrainerState:
        """Return the state with its steps counted in the whole sequence."""
        later = copy(state)
        later.global_step += self._steps_before
        later.max_steps += self._steps_before
        return later

    def _pass_on_if_possible(self, name: str, *arguments: Any, **kwargs: Any) -> None:
        """Pass on an event after the training: no tracker that fails ends a task whose results are whole."""
        for tracker in self._trackers:
            try:
                getattr(tracker, name)(*arguments, **kwargs)
            except Exception as error:  # of any kind: of a network, of a server, of a package
                logger.warning(
                    "%s has failed (%s: %s); the task goes on without it.",
                    type(tracker).__name__,
                    type(error).__name__,
                    error,
                )


def score_logs(scores: dict[str, dict[str, float]], place: Place | None) -> dict[str, float]:
    """Return scores as trackers show them, in percent: in TensorBoard as test/charts_accuracy, and so on.

    Args:
        scores: What `scores.json` holds.
        place: Of the task; without one there is no mean over the tasks so far.
    """
    logs = {
        f"test_{name}_{key}": values[key]
        for name, values in scores.items()
        for key in ("accuracy", "format", "official")
        if values.get(key) is not None
    }
    mean = place.mean_accuracy(scores) if place else None
    return logs if mean is None else {**logs, "test_mfn": mean}


def cost_logs(cost: Cost) -> dict[str, float]:
    """Return what a training took as trackers show it: in TensorBoard as train/step_seconds, and so on."""
    return {"step_seconds": cost.step_seconds, "peak_memory_gb": cost.peak_memory / 1e9}


def _name(training_args: TrainingArguments, place: Place) -> None:
    """Name the task's run, and gather those of the sequence, as far as the user has not."""
    if training_args.run_name is None and not any(name in os.environ for name in _NAMES):
        training_args.run_name = place.name
    for group, others in _GROUPS.items():
        if not any(name in os.environ for name in (group, *others)):
            os.environ[group] = place.run.path.name


def _is_swanlab(callback: Any) -> bool:
    from swanlab.integration.transformers import SwanLabCallback

    return isinstance(callback, SwanLabCallback)
