"""What the reports of several arms say together: means and spreads over seeds, paired differences. Pure arithmetic."""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from sefe_plugin.evaluation.metrics import mean_of
from sefe_plugin.evaluation.report_data import FURTHER, METRICS, further_values, scored


#: Value of a report -> table head.
RESULTS = {
    **{key: head for key, (head, _) in METRICS.items()},
    "format": "Format",
    "mean_format": "Mean format",
    "superficial": "Superficial",
    "essential": "Essential",
}

#: Value of a run of mini-CoIN -> table head.
VALUES = {**RESULTS, "update": "Update"}

_CONFIDENCE = 0.95

#: What the `FURTHER` values are, for a page that has them.
ABOUT_FURTHER = (
    "FWD unseen is the mean over stages of what the tasks not learned yet gain over the untouched base, FWD learning "
    "that of what the tasks so far gain over training each alone. Retention is the mean accuracy at the end on test "
    "sets that belong to no task, retention format the share of their answers in the right format, retention lost the "
    "points of accuracy that they lost since the untouched base."
)


class Interval(NamedTuple):
    """A mean with its 95 % confidence interval; `low` and `high` are None for a single value."""

    mean: float
    low: float | None
    high: float | None


def results(report: Mapping) -> dict[str, float | None]:
    """Return the `RESULTS` of a finished run, in percent or points of percent.

    These are the metrics of the report; "format", the mean share of answers in their task's format at the end;
    "mean_format", the same after each task, averaged as MAA averages accuracy; "superficial" and "essential", means
    over all tasks that add up to -BWT. Beside them stand those of the `FURTHER` values that the report has. Tasks that
    nobody scores do not count; without any other a value is None.

    Args:
        report: what `evaluation.report_data.build_report` returned.
    """
    formats, places = report["format_matrix"], scored(report, report["tasks"])
    losses = [report["losses"][place] for place in places]
    return {
        **{key: report[key] for key in METRICS},
        "format": mean_of(formats[-1][place] for place in places),
        "mean_format": mean_of(mean for mean in _after_each_task(formats, places) if mean is not None),
        **{key: mean_of(loss[key] for loss in losses) for key in ("superficial", "essential")},
        **further_values(report),
    }


def with_further(heads: Mapping[str, str], content: Mapping) -> dict[str, str]:
    """Return the heads of a table with those of the `FURTHER` values that a run of a comparison has.

    Args:
        heads: Value -> table head.
        content: What `compare` returned.
    """
    runs = [run for of_arm in content["runs"].values() for run in of_arm]
    return {**heads, **{key: head for key, head in FURTHER.items() if any(key in run for run in runs)}}


def run_values(report: Mapping) -> dict[str, float | None]:
    """Return the `VALUES` of a finished run: its `results`, and "update" in units of 1e-4.

    Args:
        report: what `evaluation.report_data.build_report` returned, and under "update" the mean |B A| of the
            adapters, or None.
    """
    return {**results(report), "update": None if report["update"] is None else 1e4 * report["update"]}


def t_interval(values: Sequence[float]) -> Interval:
    """Return the mean and Student's 95 % interval of the mean: mean +- t(0.975, n - 1) * s / sqrt(n).

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


def compare(
    reports: Mapping[str, Mapping[int, Mapping]],
    against: str | None = None,
    measure: Callable[[Mapping], Mapping[str, float | None]] = run_values,
) -> dict:
    """Compare arms over one order of tasks.

    Args:
        reports: arm -> seed -> report as `measure` takes it; the same seeds for every arm, and the same tasks in every
            report.
        against: the arm that every other is compared with; if None, each is compared with all before it.
        measure: returns the values of a report that are compared.

    Returns:
        Plain data for JSON: "tasks"; "seeds"; "unscored", the tasks that nobody scores, if there are any; "runs", arm
        -> one entry for each seed with its values and "after_each_task", the mean accuracy on the tasks learned so far
        (None before the first that is scored); "arms", arm -> mean and sample standard deviation "sd" (None for one
        seed) of each value, and under "tasks" for each task those of its accuracy at the end and the means of its
        loss; "differences", for each pair of arms the `t_interval` of every value of the one minus that of the other,
        paired by seed.

    Raises:
        ValueError: if a run is unfinished, or the seeds or tasks differ.
    """
    first = next(iter(reports.values()))
    first_report = next(iter(first.values()))
    seeds, tasks = list(first), first_report["tasks"]
    for arm, by_seed in reports.items():
        for seed, report in by_seed.items():
            if list(by_seed) != seeds or report["tasks"] != tasks or report["num_scored_tasks"] != len(tasks):
                raise ValueError(
                    f"the runs of a table must be finished and over the same tasks and seeds; {arm}, seed {seed}, has "
                    f"scored {report['num_scored_tasks']} of {report['tasks']}, of seeds {list(by_seed)}, not {seeds}"
                )
    if against is None:
        pairs = [(later, earlier) for earlier, later in itertools.combinations(reports, 2)]
    else:
        pairs = [(arm, against) for arm in reports if arm != against]
    values = {arm: [measure(report) for report in by_seed.values()] for arm, by_seed in reports.items()}
    unscored = [task for place, task in enumerate(tasks) if place not in scored(first_report, tasks)]
    keys = list(dict.fromkeys(key for runs in values.values() for run in runs for key in run))
    return {
        "tasks": tasks,
        "seeds": seeds,
        **({"unscored": unscored} if unscored else {}),
        "runs": {
            arm: [
                {
                    "seed": seed,
                    **run,
                    "after_each_task": _after_each_task(report["accuracy_matrix"], scored(report, tasks)),
                }
                for run, (seed, report) in zip(values[arm], by_seed.items(), strict=True)
            ]
            for arm, by_seed in reports.items()
        },
        "arms": {
            arm: {
                **{key: _spread([run.get(key) for run in values[arm]]) for key in keys},
                "tasks": {task: _task_summary(list(by_seed.values()), j) for j, task in enumerate(tasks)},
            }
            for arm, by_seed in reports.items()
        },
        "differences": [
            {
                "arm": arm,
                "minus": other,
                **{
                    key: _difference([run.get(key) for run in values[arm]], [run.get(key) for run in values[other]])
                    for key in keys
                },
            }
            for arm, other in pairs
        ],
    }


def _after_each_task(matrix: Sequence[Sequence[float | None]], places: Sequence[int]) -> list[float | None]:
    """Return the means over the tasks learned so far, of those at some places."""
    return [mean_of(row[place] for place in places if place <= i) for i, row in enumerate(matrix)]


def _spread(values: Sequence[float | None]) -> dict[str, float | None]:
    if None in values:
        return {"mean": None, "sd": None}
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}


def _difference(values: Sequence[float | None], others: Sequence[float | None]) -> dict:
    if None in values or None in others:
        return {"mean": None, "low": None, "high": None, "each": []}
    each = [a - b for a, b in zip(values, others, strict=True)]
    return {**t_interval(each)._asdict(), "each": each}


def _task_summary(reports: Sequence[Mapping], j: int) -> dict:
    losses = [report["losses"][j] for report in reports]
    return {
        "accuracy": _spread([report["accuracy_matrix"][-1][j] for report in reports]),
        **{key: mean_of(loss and loss[key] for loss in losses) for key in ("drop", "superficial", "essential")},
    }
