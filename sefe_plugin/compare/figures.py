"""The pictures of a comparison: paired differences, accuracy along the sequence, and what accuracy costs."""

import statistics
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from sefe_plugin.evaluation.figures import COLOURS, line_looks


def draw_differences(differences: Sequence[Mapping], key: str, head: str) -> Figure:
    """Draw a row for each pair of arms: the difference of every seed, their mean and its 95 % interval.

    Args:
        differences: "differences" of `comparison.compare`, at least one.
        key: the value to draw.
        head: its name.
    """
    figure = Figure(figsize=(8.0, 1.5 + 0.42 * len(differences)), layout="constrained", dpi=120)
    axes = figure.subplots()
    for row, pair in enumerate(differences):
        value = pair[key]
        axes.plot(value["each"], [row] * len(value["each"]), "o", color=COLOURS[4], markersize=4, alpha=0.7)
        if value["low"] is not None:
            axes.plot([value["low"], value["high"]], [row, row], color=COLOURS[0], linewidth=2)
        if value["mean"] is not None:
            axes.plot(value["mean"], row, "D", color=COLOURS[0], markersize=7)
    axes.axvline(0, color="#555555", linewidth=1)
    axes.set_yticks(range(len(differences)), [f"{pair['arm']} - {pair['minus']}" for pair in differences])
    axes.invert_yaxis()
    axes.set_xlabel(f"difference in {head}, points of percent")
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    # over the names of the arms, too: beside long ones it would be cut off
    figure.suptitle(f"{head}, paired by seed: each, mean and 95 % interval", fontsize=12, x=0.01, ha="left")
    return figure


def draw_stages(tasks: Sequence[str], runs: Mapping[str, Sequence[Mapping]]) -> Figure:
    """Draw for each arm the mean accuracy on the tasks learned so far, and a band of its range over seeds.

    Args:
        tasks: the tasks in order.
        runs: "runs" of `comparison.compare`.
    """
    names = 0.08 * max(map(len, runs), default=0)  # in the legend, beside the axes
    figure = Figure(figsize=(max(5.4, 0.8 * len(tasks) + 0.8) + names, 4.6), layout="constrained", dpi=120)
    axes = figure.subplots()
    for number, (arm, of_seeds) in enumerate(runs.items()):
        every = enumerate(zip(*(run["after_each_task"] for run in of_seeds), strict=True))
        by_place = {place: values for place, values in every if None not in values}
        looks, places, stages = line_looks(number), list(by_place), list(by_place.values())
        axes.plot(places, [statistics.fmean(stage) for stage in stages], label=arm, **looks)
        low, high = list(map(min, stages)), list(map(max, stages))
        axes.fill_between(places, low, high, color=looks["color"], alpha=0.12)
    axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_ylim(0, 100)
    axes.set_xlabel("after training on")
    axes.set_ylabel("accuracy on the tasks so far (%)")
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def draw_costs(runs: Mapping[str, Sequence[Mapping]], against: str) -> Figure:
    """Draw the final accuracy of every run against what it took: a point for each seed, and the mean of each arm.

    Args:
        runs: "runs" of `page.compare_recipes`.
        against: the arm whose run of the same seed the memory is compared with.
    """
    reference = [run["memory"] for run in runs[against]]
    panels = {
        "training time (min)": {arm: [run["training"] for run in of_seeds] for arm, of_seeds in runs.items()},
        f"extra memory over {against} (GB)": {
            arm: [
                None if None in (run["memory"], base) else run["memory"] - base
                for run, base in zip(of_seeds, reference, strict=True)
            ]
            for arm, of_seeds in runs.items()
        },
        "left per task (MB)": {arm: [run["left"] for run in of_seeds] for arm, of_seeds in runs.items()},
    }
    figure = Figure(figsize=(13.0, 4.4), layout="constrained", dpi=120)
    for axes, (head, values) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
        for number, (arm, of_seeds) in enumerate(runs.items()):
            accuracy, looks = [run["mfn"] for run in of_seeds], line_looks(number)
            if None in values[arm] or None in accuracy:
                axes.plot([], [], linestyle="none", label=arm, **looks)
                continue
            axes.plot(values[arm], accuracy, linestyle="none", markersize=4, alpha=0.5, **looks)
            mean = statistics.fmean(values[arm]), statistics.fmean(accuracy)
            axes.plot(*mean, linestyle="none", markersize=9, label=arm, **looks)
        if not any(line.get_xdata().size for line in axes.lines):
            axes.text(0.5, 0.5, "not recorded", ha="center", transform=axes.transAxes)
        axes.set_xlabel(head)
        axes.grid(color="#DDDDDD", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("MFN: accuracy of all tasks at the end (%)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure
