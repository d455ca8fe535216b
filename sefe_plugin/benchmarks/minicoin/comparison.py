"""What the reports of several arms say together: means and spreads over seeds, paired differences. Pure arithmetic."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sefe_plugin.evaluation.report import METRICS


#: Value of a run -> table head. The last two are means over all tasks and add up to -BWT.
VALUES = {
    **{key: head for key, (head, _) in METRICS.items()},
    "format": "Format",
    "superficial": "Superficial",
    "essential": "Essential",
}

_CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean with its 95 % confidence interval; `low` and `high` are None for a single value."""

    mean: float
    low: float | None
    high: float | None


def run_values(report: Mapping) -> dict[str, float]:
    """Returns the `VALUES` of a finished run, in percent or points of percent.

    Args:
        report: what `evaluation.report.build_report` returned.
    """
    losses = report["losses"]
    return {
        **{key: report[key] for key in METRICS},
        "format": statistics.fmean(report["format_matrix"][-1]),
        **{key: statistics.fmean(loss[key] for loss in losses) for key in ("superficial", "essential")},
    }


def t_interval(values: Sequence[float]) -> Interval:
    """Returns the mean and Student's 95 % interval of the mean: mean +- t(0.975, n - 1) * s / sqrt(n).

    Args:
        values: at least one; taken as drawn independently from one normal distribution.

    Example:
        >>> [round(x, 2) for x in t_interval([1.0, 2.0, 3.0])]  # 2 +- 4.303 / sqrt(3)
        [2.0, -0.48, 4.48]
    """
    from scipy import stats

    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Interval(mean, None, None)
    half = stats.t.ppf((1 + _CONFIDENCE) / 2, count - 1) * statistics.stdev(values) / count**0.5
    return Interval(mean, float(mean - half), float(mean + half))


def compare(reports: Mapping[str, Mapping[int, Mapping]]) -> dict:
    """Compares arms over one order of tasks.

    Args:
        reports: arm -> seed -> report; the same seeds for every arm, and the same tasks in every report.

    Returns:
        Plain data for JSON: "tasks"; "seeds"; "runs", arm -> one entry for each seed with its `VALUES` and
        "after_each_task", the mean accuracy on the tasks learned so far; "arms", arm -> mean and sample standard
        deviation "sd" (None for one seed) of each value, and under "tasks" for each task those of its accuracy at the
        end and the means of its loss; "differences", for each two arms the `t_interval` of every value of the later
        minus that of the earlier, paired by seed.

    Raises:
        ValueError: if a run is unfinished, or the seeds or tasks differ.
    """
    first = next(iter(reports.values()))
    seeds, tasks = list(first), next(iter(first.values()))["tasks"]
    for arm, by_seed in reports.items():
        for seed, report in by_seed.items():
            if list(by_seed) != seeds or report["tasks"] != tasks or report["num_scored_tasks"] != len(tasks):
                raise ValueError(
                    f"the runs of a table must be finished and over the same tasks and seeds; {arm}, seed {seed}, has "
                    f"scored {report['num_scored_tasks']} of {report['tasks']}, of seeds {list(by_seed)}, not {seeds}"
                )
    values = {arm: [run_values(report) for report in by_seed.values()] for arm, by_seed in reports.items()}
    return {
        "tasks": tasks,
        "seeds": seeds,
        "runs": {
            arm: [
                {"seed": seed, **run, "after_each_task": _after_each_task(report["accuracy_matrix"])}
                for run, (seed, report) in zip(values[arm], by_seed.items(), strict=True)
            ]
            for arm, by_seed in reports.items()
        },
        "arms": {
            arm: {
                **{key: _spread([run[key] for run in values[arm]]) for key in VALUES},
                "tasks": {task: _task_summary(list(by_seed.values()), j) for j, task in enumerate(tasks)},
            }
            for arm, by_seed in reports.items()
        },
        "differences": [
            {
                "arm": later,
                "minus": earlier,
                **{
                    key: _difference([run[key] for run in values[later]], [run[key] for run in values[earlier]])
                    for key in VALUES
                },
            }
            for earlier, later in itertools.combinations(reports, 2)
        ],
    }


def _after_each_task(accuracy: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.fmean(row[: i + 1]) for i, row in enumerate(accuracy)]


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}


def _difference(later: Sequence[float], earlier: Sequence[float]) -> dict:
    each = [a - b for a, b in zip(later, earlier, strict=True)]
    return {**t_interval(each)._asdict(), "each": each}


def _task_summary(reports: Sequence[Mapping], j: int) -> dict:
    losses = [report["losses"][j] for report in reports]
    return {
        "accuracy": _spread([report["accuracy_matrix"][-1][j] for report in reports]),
        **{key: statistics.fmean(loss[key] for loss in losses) for key in ("drop", "superficial", "essential")},
    }
