"""A finished plan, as data and as text."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sefe_plugin.plan.done import Done, format_left
from sefe_plugin.plan.memory import UNCERTAINTY
from sefe_plugin.plan.sizes import Architecture, TaskSize
from sefe_plugin.words import number, size_in_words


_SOURCES = {
    "measured": "samples counted; tokens measured on 32 samples of each dataset, with the recipe's tokenizer",
    "counted": "samples counted; tokens estimated, because the tokenizer is not on this machine",
    "published": "samples are published figures, because the data is not on this machine; tokens are estimated, and "
    "2000 test records for each task assumed",
}


@dataclass(frozen=True)
class Plan:
    """What a sequence will take.

    Attributes:
        source: the recipe.
        errors: what keeps it from starting, one sentence each.
        gpus: processes that train together, one per GPU.
        global_batch: samples of one optimizer step.
        architecture: the model and its adapter.
        tasks: the data of every task.
        steps: optimizer steps of every task, None where its samples cannot be counted, or are packed.
        memory: bytes of one GPU at the peak of the last task, by part and in total.
        disk: bytes that the finished run takes, by part and in total.
        notes: what the host could not try here, and what is doubtful, one sentence each.
        answers: number of questions of test sets that are answered, by what they are of and in total.
        done: what the run folder holds already.
    """

    source: str
    errors: Sequence[str]
    gpus: int
    global_batch: int
    architecture: Architecture
    tasks: Sequence[TaskSize]
    steps: Sequence[int | None]
    memory: Mapping[str, int]
    disk: Mapping[str, int]
    notes: Sequence[str] = ()
    answers: Mapping[str, int] = field(default_factory=dict)
    done: Done | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        tasks = [
            {**asdict(task), "steps": steps, "tokens": _tokens(task)}
            for task, steps in zip(self.tasks, self.steps, strict=True)
        ]
        matrices = {"adapted_matrices": len(self.architecture.matrices)}
        sizes = {key: value for key, value in asdict(self.architecture).items() if key != "matrices"}
        return {
            "source": self.source,
            "errors": list(self.errors),
            "gpus": self.gpus,
            "global_batch": self.global_batch,
            "model": {**sizes, **matrices},
            "tasks": tasks,
            "gpu_memory": dict(self.memory),
            "uncertainty": UNCERTAINTY,
            "disk": dict(self.disk),
            "notes": list(self.notes),
            "answers": dict(self.answers),
            **({"done": asdict(self.done), "left": self.left()} if self.done else {}),
        }

    def left(self) -> dict[str, Any]:
        """Return what is left of it (`Done.left`); all of it where there is no run folder."""
        return (self.done or Done("")).left(self.steps, self.disk["total"])


def format_plan(plan: Plan) -> str:
    """Return the plan as text: the model, a table of the tasks, memory and disk by part."""
    model = plan.architecture
    samples = [_samples(task) for task in plan.tasks]
    added = sum(task.added for task in plan.tasks)
    lines = [
        f"{plan.source}: {len(plan.tasks)} tasks on {plan.gpus} GPU{'s' * (plan.gpus > 1)}, global batch "
        f"{plan.global_batch}",
        f"{model.model_type}: {model.parameters:,} parameters, {model.trainable_parameters:,} trainable, "
        f"{len(model.matrices)} adapted matrices",
        "",
        f"{'task':<20}{'samples':>12}{'steps':>10}{'tokens/epoch':>16}{'per sample':>12}{'longest':>9}",
    ]
    for task, steps in zip(plan.tasks, plan.steps, strict=True):
        lines.append(
            f"{task.name:<20}{number(_samples(task)):>12}{number(steps):>10}{number(_tokens(task)):>16}"
            f"{task.mean_tokens:>12}{task.longest_tokens:>9}"
        )
    tokens = [_tokens(task) for task in plan.tasks]
    lines += [
        f"{'total':<20}{_sum(samples):>12}{_sum(plan.steps):>10}{_sum(tokens):>16}",
        *sorted({_SOURCES[task.source] for task in plan.tasks}),
        *([f"{added:,} of the samples are of earlier tasks or general data"] if added else []),
        *_further_answers(plan.answers),
        "",
        f"memory of one GPU at the peak of the last task, within {UNCERTAINTY:.0%}, driver's context aside:",
        *_parts(plan.memory),
        "",
        "disk of the finished run:",
        *_parts(plan.disk),
        *(["", "left to do:", *format_left(plan.done, plan.left())] if plan.done else []),
        *(["", "not tried here, or doubtful:", *(f"  - {note}" for note in plan.notes)] if plan.notes else []),
    ]
    return "\n".join(lines)


def _further_answers(answers: Mapping[str, int]) -> list[str]:
    """Say how many questions are answered, where it is more than those of the tasks so far."""
    parts = {name: count for name, count in answers.items() if name != "total"}
    if len(parts) < 2:
        return []
    shown = ", ".join(f"{count:,} of {name}" for name, count in parts.items())
    return [f"{answers['total']:,} questions are answered in all: {shown}"]


def _tokens(task: TaskSize) -> int | None:
    """Tokens of one pass over a task's data."""
    return None if task.samples is None else _samples(task) * task.mean_tokens


def _samples(task: TaskSize) -> int | None:
    """Samples of one pass: its own, and those that join them."""
    return None if task.samples is None else task.samples + task.added


def _sum(values: Sequence[int | None]) -> str:
    return number(None if None in values else sum(values))


def _parts(sizes: Mapping[str, int]) -> list[str]:
    return [f"  {name:<22}{size_in_words(size):>12}" for name, size in sizes.items() if size or name == "total"]
