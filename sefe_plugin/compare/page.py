"""Any recipes compared: results and costs with their intervals, as one Markdown page, data and pictures."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from sefe_plugin.compare.comparison import (
    ABOUT_FURTHER,
    RESULTS,
    Interval,
    compare,
    results,
    t_interval,
    with_further,
)
from sefe_plugin.compare.kept import keep_result
from sefe_plugin.compare.report import interval, spread, task_table
from sefe_plugin.compare.table import Plan, Run
from sefe_plugin.evaluation.report_text import markdown_table
from sefe_plugin.files import replacing, write_json, write_text
from sefe_plugin.versions import in_words


#: What a run took -> table head with its unit.
COSTS = {
    "training": "Training, min",
    "step": "Step, s",
    "memory": "Peak memory, GB",
    "left": "Left per task, MB",
}

#: Costs below it, whatever their unit, are rounding of floating point.
_NOTHING = 1e-9


def compare_recipes(plan: Plan, against: str) -> dict:
    """Compare the finished runs of a plan whose order of tasks is left to the recipes.

    Args:
        plan: Its runs are finished; what each is worth is kept (`kept.keep_result`).
        against: The arm that every other is compared with.

    Returns:
        What `comparison.compare` returns, with `RESULTS` and `COSTS` as its values; "against"; "intervals", arm -> the
        `t_interval` of each value, None where a run has none; "shared", where runs have taken tasks from others, run
        -> task -> the run that trained it; "matrices", arm -> the means over seeds of the "accuracy" and the "format"
        matrix; "memory_of", what the peak memory is of, or None where it cannot be compared.

    Raises:
        ValueError: If the runs are not over the same tasks.
    """
    kept = {run: keep_result(plan.out, run.name) for run in plan.runs()}
    loaded = {
        arm: {seed: (one := kept[Run(arm, None, seed)])["report"] | {"costs": one["costs"]} for seed in plan.seeds}
        for arm in plan.arms
    }
    shared = {run.name: one["shared_from"] for run, one in kept.items() if one["shared_from"]}
    kinds = {one["memory_of"] for one in kept.values()}
    memory_of = kinds.pop() if len(kinds) == 1 else None

    def measure(report: Mapping) -> dict[str, float | None]:
        costs = report["costs"] if memory_of else {**report["costs"], "memory": None}
        return {**results(report), **costs}

    content = compare(loaded, against, measure)
    return {
        "against": against,
        "memory_of": memory_of,
        **({"shared": shared} if shared else {}),
        **content,
        "intervals": {
            arm: {
                key: _interval_of([run.get(key) for run in runs]) for key in (*with_further(RESULTS, content), *COSTS)
            }
            for arm, runs in content["runs"].items()
        },
        "matrices": {
            arm: {
                kind: _mean_matrix([report[f"{kind}_matrix"] for report in by_seed.values()])
                for kind in ("accuracy", "format")
            }
            for arm, by_seed in loaded.items()
        },
    }


def write_page(folder: Path, comparison: Mapping) -> None:
    """Write ``compare.md``, its pictures and, last, ``compare.json``.

    Args:
        folder: Where to; made if absent.
        comparison: What `compare_recipes` returned, and beside it "command", the command line that makes it again, and
            "versions", a list of package -> version, one for each environment that runs were made in.
    """
    from sefe_plugin.compare.figures import draw_costs, draw_differences, draw_stages
    from sefe_plugin.evaluation.figures import draw_matrices

    figures = {
        _matrix_file(arm): draw_matrices(
            comparison["tasks"],
            matrices["accuracy"],
            matrices["format"],
            arm,
            unscored=comparison.get("unscored", ()),
        )
        for arm, matrices in comparison["matrices"].items()
    }
    figures["accuracy.png"] = draw_stages(comparison["tasks"], comparison["runs"])
    figures["costs.png"] = draw_costs(comparison["runs"], comparison["against"])
    if comparison["differences"]:
        figures["differences.png"] = draw_differences(comparison["differences"], "mfn", RESULTS["mfn"])
    for name, figure in figures.items():
        with replacing(folder / name) as temporary:
            figure.savefig(temporary, format="png")
    write_text(folder / "compare.md", f"# Recipes compared\n\n{format_page(comparison, pictures=True)}")
    write_json(folder / "compare.json", comparison)


def format_page(comparison: Mapping, pictures: bool = False) -> str:
    """Return the page as Markdown that also reads well in a terminal.

    Args:
        comparison: See `write_page`.
        pictures: Whether to show the pictures, which lie beside the page.
    """
    environments = [in_words(versions) for versions in comparison["versions"]]
    seeds = ", ".join(map(str, comparison["seeds"]))
    heads = with_further(RESULTS, comparison)
    parts = [
        f"Made by `{comparison['command']}` with {'; '.join(environments)}.",
        f"{len(comparison['tasks'])} tasks, seeds {seeds}. Over several seeds: the mean and its 95 % t-interval.",
        "## Results",
        *(
            [f"Nobody scores {', '.join(comparison['unscored'])}: the results are over the other tasks."]
            if "unscored" in comparison
            else []
        ),
        "Percent. Format is the share of answers in their task's format at the end, mean format the same after each "
        "task, averaged. Superficial and essential are the two parts, lost format and lost content, of what the mean "
        "task lost from just learned to the end (-BWT)." + (f" {ABOUT_FURTHER}" if heads != RESULTS else ""),
        _table(comparison["intervals"], heads, _percent),
        "Accuracy at the end, mean ± sample standard deviation:",
        task_table(comparison, lambda task: spread(task["accuracy"])),
        "## Costs",
        _about_costs(comparison["memory_of"]),
        *_about_shared(comparison.get("shared", {})),
        _table(comparison["intervals"], COSTS, _amount),
    ]
    if comparison["differences"]:
        pairs = {f"{pair['arm']} - {pair['minus']}": pair for pair in comparison["differences"]}
        parts += [
            f"## Differences from {comparison['against']}",
            "Paired by seed: their mean and its 95 % t-interval. Where the interval holds 0, the runs do not tell "
            "which arm is better; of twenty intervals about one misses the truth.",
            _table(pairs, heads, _percent_difference),
            _table(pairs, COSTS, _amount_difference),
        ]
    if pictures:
        names = ["differences.png"] if comparison["differences"] else []
        names += ["accuracy.png", "costs.png", *map(_matrix_file, comparison["matrices"])]
        parts += ["## Pictures", *(f"![{Path(name).stem}]({name})" for name in names)]
    return "\n\n".join(parts) + "\n"


def _about_shared(shared: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Say whose costs those of shared tasks are."""
    if not shared:
        return []
    runs = [
        f"{run} ({', '.join(f'{task} of {other}' for task, other in tasks.items())})" for run, tasks in shared.items()
    ]
    return [
        "Tasks that two runs have in common up to the last file were trained once. They are counted in both, with the "
        f"costs of the run that trained them: {'; '.join(runs)}."
    ]


def _interval_of(values: Sequence[float | None]) -> dict[str, float | None]:
    return (Interval(None, None, None) if None in values else t_interval(values))._asdict()


def _mean_matrix(matrices: Sequence[Sequence[Sequence[float | None]]]) -> list[list[float | None]]:
    """Return the means of the entries; None where a run has none."""
    return [
        [None if None in entries else statistics.fmean(entries) for entries in zip(*rows, strict=True)]
        for rows in zip(*matrices, strict=True)
    ]


def _matrix_file(arm: str) -> str:
    return f"matrix_{arm}.png"


def _about_costs(memory_of: str | None) -> str:
    memory = {
        "cuda": "Peak memory is the most that PyTorch allocated on the first process's GPU in any task",
        "process": "Peak memory is the most that the first process held in any task, libraries and all",
        None: "Peak memory is not recorded in all runs, or not of the same device",
    }[memory_of]
    return (
        "Training is the time of all trainings of all tasks, with the method's work before and after the steps, "
        "evaluation and checkpoints, without loading and scoring; it depends on the machine and on what else that "
        "did. "
        f"{memory}. Left per task is the mean size of what a task leaves for later ones: "
        "the adapter or trained model, the method's file, and the samples that are kept for replay. A dash: not "
        "recorded, or not by one process from the first step to the last."
    )


def _table(rows: Mapping[str, Mapping[str, Mapping]], heads: Mapping[str, str], cell) -> str:
    return markdown_table(
        ["arm", *heads.values()], [[name, *(cell(values[key]) for key in heads)] for name, values in rows.items()]
    )


def _percent(value: Mapping) -> str:
    return _shown(value, lambda number: f"{number + 0.0:.1f}")


def _percent_difference(value: Mapping) -> str:
    return interval(value)


def _amount(value: Mapping) -> str:
    return _shown(value, _three_digits)


def _amount_difference(value: Mapping) -> str:
    return _shown(value, lambda number: ("+" if number > _NOTHING else "") + _three_digits(number))


def _shown(value: Mapping, write) -> str:
    if value["mean"] is None:
        return "-"
    mean = write(value["mean"])
    return mean if value["low"] is None else f"{mean} [{write(value['low'])}, {write(value['high'])}]"


def _three_digits(number: float) -> str:
    """Write a number with three digits at least, and no exponent; what is nothing but rounding, as 0.

    Example:
        >>> _three_digits(1234.5), _three_digits(0.05678), _three_digits(5.5e-17)
        ('1234', '0.0568', '0')
    """
    if abs(number) < _NOTHING:
        return "0"
    return f"{number:.{max(0, 2 - math.floor(math.log10(abs(number))))}f}"
