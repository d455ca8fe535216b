"""The two pictures of a report: the matrices as heat maps, and each task's accuracy along the sequence."""

from collections.abc import Collection, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure


#: Okabe and Ito's palette, told apart under all common colour-vision deficiencies; yellow is darkened for white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#B3A100")
_MARKERS = "os^Dv<>P"
_GREY = "#555555"

#: Rows or columns of a map whose cells hold their numbers; those of a larger map are smaller, so that it fits a page.
_MOST_CELLS = 24

Matrix = Sequence[Sequence[float | None]]


def draw_matrices(
    tasks: Sequence[str],
    accuracy: Matrix,
    formats: Matrix,
    title: str,
    zero_shot: Mapping[str, Sequence[float | None]] | None = None,
    retention: Mapping[str, Sequence] | None = None,
    unscored: Collection[str] = (),
) -> Figure:
    """Draw accuracy and right format side by side: a row for each trained task, a column for each scored one.

    Args:
        tasks: Their names.
        accuracy: Rows after each task, in percent.
        formats: Likewise.
        title: Head of the picture.
        zero_shot: "zero_shot" of a report: a row above the others.
        retention: "retention" of a report: columns set apart to the right, with a row above the others.
        unscored: Names of tasks and retention sets that nobody scores: dashes stand in their columns.
    """
    if zero_shot is not None or retention is not None:
        return _draw_with_base(tasks, (accuracy, formats), title, zero_shot, retention, unscored)
    size = min(max(len(tasks), 3), _MOST_CELLS)
    figure = Figure(figsize=(2 * (0.72 * size + 0.9) + 1.6, 0.5 * size + 2.1), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2, sharey=True)
    _heat_map(left, tasks, accuracy, "Accuracy (%)", unscored)
    image = _heat_map(right, tasks, formats, "Answers in the right format (%)", unscored)
    left.set_ylabel("after training on")
    bar = figure.colorbar(image, ax=[left, right], fraction=0.02, pad=0.01, ticks=range(0, 101, 20))
    bar.outline.set_visible(False)
    figure.suptitle(title, fontsize=13)
    return figure


def _draw_with_base(
    tasks: Sequence[str],
    matrices: tuple[Matrix, Matrix],
    title: str,
    zero_shot: Mapping[str, Sequence[float | None]] | None,
    retention: Mapping[str, Sequence] | None,
    unscored: Collection[str],
) -> Figure:
    """Draw the matrices of `draw_matrices` with the base's row on top, and retention sets beside the tasks."""
    sets = list(retention["sets"]) if retention else []
    rows = ["before", *tasks]
    # a column of the tasks' map is as wide as one of the retention sets' map
    shares = [max(len(tasks), 3), *([max(len(sets), 1)] if sets else [])] * 2
    width = 0.72 * min(sum(shares), 2 * _MOST_CELLS) + 0.5 * len(shares) + 2.4
    height = 0.5 * min(max(len(rows), 4), _MOST_CELLS) + 2.3
    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    panels = list(figure.subplots(1, len(shares), sharey=True, width_ratios=shares))
    for half, (key, head, matrix) in enumerate(
        zip(("accuracy", "format"), ("Accuracy (%)", "Right format (%)"), matrices, strict=True)
    ):
        own = panels[half * len(shares) // 2 : (half + 1) * len(shares) // 2]
        before = zero_shot[key] if zero_shot is not None else [None] * len(tasks)
        image = _heat_map(own[0], tasks, [before, *matrix], head, unscored, rows)
        own[0].axhline(0.5, color=_GREY, linewidth=1.5)
        if sets:
            _heat_map(own[1], sets, retention[f"{key}_matrix"], "Retention", unscored, rows)
            own[1].axhline(0.5, color=_GREY, linewidth=1.5)
            own[1].set_xlabel("")
    panels[0].set_ylabel("after training on")
    bar = figure.colorbar(image, ax=panels, fraction=0.02, pad=0.01, ticks=range(0, 101, 20))
    bar.outline.set_visible(False)
    figure.suptitle(title, fontsize=13)
    return figure


def draw_curves(
    tasks: Sequence[str], accuracy: Matrix, title: str, retention: Mapping[str, Sequence] | None = None
) -> Figure:
    """Draw a curve for each task, from its own training on, and a dashed one for each retention set of a report."""
    figure = Figure(figsize=(max(7.0, 0.95 * len(tasks) + 2.4), 4.6), layout="constrained", dpi=120)
    axes = figure.subplots()
    for j, task in enumerate(tasks):
        points = [(i, row[j]) for i, row in enumerate(accuracy) if i >= j and row[j] is not None]
        if points:
            looks = line_looks(j)
            axes.plot(*zip(*points, strict=True), label=task, linewidth=1.8, markersize=6, clip_on=False, **looks)
    first, ticks = 0, list(tasks)
    if retention is not None:
        first, ticks = -1, ["before", *tasks]
        for j, name in enumerate(retention["sets"]):
            points = [(i - 1, row[j]) for i, row in enumerate(retention["accuracy_matrix"]) if row[j] is not None]
            if points:
                looks = {**line_looks(len(tasks) + j), "linestyle": "--", "markerfacecolor": "white"}
                axes.plot(*zip(*points, strict=True), label=name, linewidth=1.8, markersize=6, clip_on=False, **looks)
    axes.set_xticks(range(first, len(tasks)), ticks, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_xlim(first - 0.2, len(tasks) - 0.8)
    rows = [*accuracy, *(retention["accuracy_matrix"] if retention is not None else ())]
    # CIDEr takes captions above 100
    axes.set_ylim(0, max(100, *(value for row in rows for value in row if value is not None), 0))
    axes.set_xlabel("after training on")
    axes.set_ylabel("accuracy (%)")
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=13, loc="left", pad=12)
    if axes.lines:
        figure.legend(loc="outside right upper", frameon=False, title="accuracy on", alignment="left")
    return figure


def line_looks(number: int) -> dict[str, str]:
    """Return colour and marker of a line by its number, from 0; no two of 64 lines look alike."""
    rounds, place = divmod(number, len(COLOURS))
    return {"color": COLOURS[place], "marker": _MARKERS[(place + rounds) % len(_MARKERS)]}


def _heat_map(
    axes: Axes,
    tasks: Sequence[str],
    matrix: Matrix,
    title: str,
    unscored: Collection[str],
    rows: Sequence[str] | None = None,
):
    rows = tasks if rows is None else rows
    values = [[float("nan") if value is None else value for value in row] for row in matrix]
    image = axes.imshow(values, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    most = max(len(tasks), len(rows) - 1)  # a row of the base is no task's
    for i, row in enumerate(matrix if most <= _MOST_CELLS else ()):
        for j, value in enumerate(row):
            if value is not None:
                colour = "white" if value < 50 else "black"
                axes.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=9, color=colour)
            elif tasks[j] in unscored:
                axes.text(j, i, "-", ha="center", va="center", fontsize=9, color=_GREY)
    axes.set_title(title, fontsize=11)
    axes.set_xticks(range(len(tasks)), tasks, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("scored on")
    axes.tick_params(length=0)
    if most > _MOST_CELLS:
        axes.tick_params(labelsize=max(3, 9 * _MOST_CELLS / most))
    axes.set_xticks([k - 0.5 for k in range(1, len(tasks))], minor=True)
    axes.set_yticks([k - 0.5 for k in range(1, len(rows))], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5 * min(1, _MOST_CELLS / most) ** 2)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_color(_GREY)
    return image
