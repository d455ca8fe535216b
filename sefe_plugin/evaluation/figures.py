"""The two pictures of a report: the matrices as heat maps, and each task's accuracy along the sequence."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure


#: Okabe and Ito's palette, told apart under all common colour-vision deficiencies; yellow is darkened for white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#B3A100")
_MARKERS = "os^Dv<>P"
_GREY = "#555555"

Matrix = Sequence[Sequence[float | None]]


def draw_matrices(tasks: Sequence[str], accuracy: Matrix, formats: Matrix, title: str) -> Figure:
    """Draw accuracy and right format side by side: a row for each trained task, a column for each scored one."""
    size = max(len(tasks), 3)
    figure = Figure(figsize=(2 * (0.72 * size + 0.9) + 1.6, 0.5 * size + 2.1), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2, sharey=True)
    _heat_map(left, tasks, accuracy, "Accuracy (%)")
    image = _heat_map(right, tasks, formats, "Answers in the right format (%)")
    left.set_ylabel("after training on")
    bar = figure.colorbar(image, ax=[left, right], fraction=0.02, pad=0.01, ticks=range(0, 101, 20))
    bar.outline.set_visible(False)
    figure.suptitle(title, fontsize=13)
    return figure


def draw_curves(tasks: Sequence[str], accuracy: Matrix, title: str) -> Figure:
    """Draw a curve for each task, from its own training on."""
    figure = Figure(figsize=(max(7.0, 0.95 * len(tasks) + 2.4), 4.6), layout="constrained", dpi=120)
    axes = figure.subplots()
    for j, task in enumerate(tasks):
        points = [(i, row[j]) for i, row in enumerate(accuracy) if i >= j and row[j] is not None]
        if points:
            looks = line_looks(j)
            axes.plot(*zip(*points, strict=True), label=task, linewidth=1.8, markersize=6, clip_on=False, **looks)
    axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.2, len(tasks) - 0.8)
    axes.set_ylim(0, 100)
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


def _heat_map(axes: Axes, tasks: Sequence[str], matrix: Matrix, title: str):
    values = [[float("nan") if value is None else value for value in row] for row in matrix]
    image = axes.imshow(values, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            if value is not None:
                colour = "white" if value < 50 else "black"
                axes.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=9, color=colour)
    axes.set_title(title, fontsize=11)
    axes.set_xticks(range(len(tasks)), tasks, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_xlabel("scored on")
    axes.tick_params(length=0)
    axes.set_xticks([k - 0.5 for k in range(1, len(tasks))], minor=True)
    axes.set_yticks([k - 0.5 for k in range(1, len(tasks))], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_color(_GREY)
    return image
