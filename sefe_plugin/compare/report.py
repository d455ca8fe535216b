"""The table of several arms as text, data and pictures, and its place in another Markdown file."""

from collections.abc import Callable, Mapping
from pathlib import Path

from sefe_plugin.compare.comparison import ABOUT_FURTHER, VALUES, with_further
from sefe_plugin.evaluation.report_text import markdown_table
from sefe_plugin.files import replacing, write_json, write_text
from sefe_plugin.versions import in_words


#: Lines in a Markdown file between which `write_between_markers` puts the table.
BEGIN = "<!-- begin of `sefe minicoin table` -->"
END = "<!-- end of `sefe minicoin table` -->"


def write_comparison(folder: Path, comparison: Mapping) -> None:
    """Write ``table.md``, its pictures and, last, ``table.json``.

    Args:
        folder: where to; made if absent.
        comparison: "command", the command line that makes it again; "versions", a list of package -> version, one for
            each environment that runs were made in; and "orders": order -> what `comparison.compare` returned.
    """
    write_pictures(folder, comparison)
    write_text(folder / "table.md", f"# Mini-CoIN, arms compared\n\n{format_comparison(comparison, pictures=Path())}")
    write_json(folder / "table.json", comparison)


def write_pictures(folder: Path, comparison: Mapping) -> None:
    """Write ``accuracy_<order>.png`` and, of two arms or more, ``differences_<order>.png`` for each order.

    Args:
        folder: where to; made if absent.
        comparison: see `write_comparison`.
    """
    from sefe_plugin.compare.figures import draw_differences, draw_stages

    folder.mkdir(parents=True, exist_ok=True)
    for order, content in comparison["orders"].items():
        figures = {f"accuracy_{order}.png": draw_stages(content["tasks"], content["runs"])}
        if content["differences"]:
            figures[f"differences_{order}.png"] = draw_differences(content["differences"], "mfn", VALUES["mfn"])
        for name, figure in figures.items():
            with replacing(folder / name) as temporary:
                figure.savefig(temporary, format="png")


def format_comparison(comparison: Mapping, pictures: Path | None = None) -> str:
    """Return the table as Markdown that also reads well in a terminal.

    Args:
        comparison: see `write_comparison`.
        pictures: the folder of `write_pictures`, as seen from the file of the text; None leaves the pictures out.
    """
    environments = [in_words(versions) for versions in comparison["versions"]]
    parts = [
        f"Made by `{comparison['command']}` with {'; '.join(environments)}.",
        "Percent; over several seeds the mean ± the sample standard deviation. Format is the share of answers in "
        "their task's format at the end, mean format the same after each task, averaged. Superficial and essential "
        "are the two parts, lost format and lost content, of what the mean task lost from just learned to the end "
        "(-BWT). Update is the mean |B A| of an adapter's elements, from the second task on, times 10^4; of an "
        "adapter that goes on, the mean |change of B A| by a task.",
    ]
    for order, content in comparison["orders"].items():
        seeds = ", ".join(map(str, content["seeds"]))
        heads = with_further(VALUES, content)
        parts += [
            f"### Order {order}, seeds {seeds}",
            *([ABOUT_FURTHER] if heads != VALUES else []),
            markdown_table(
                ["arm", *heads.values()],
                [[arm, *(spread(summary[key]) for key in heads)] for arm, summary in content["arms"].items()],
            ),
            "Accuracy at the end:",
            task_table(content, lambda task: spread(task["accuracy"])),
            "Points lost from just learned to the end = superficial + essential, means over seeds:",
            task_table(content, _loss),
        ]
        if content["differences"]:
            parts += [
                "Differences between arms, paired by seed: their mean and its 95 % t-interval. Where the interval "
                "holds 0, the runs do not tell which arm is better; of twenty intervals about one misses the truth.",
                markdown_table(
                    ["arms", *heads.values()],
                    [
                        [f"{pair['arm']} - {pair['minus']}", *(interval(pair[key]) for key in heads)]
                        for pair in content["differences"]
                    ],
                ),
            ]
            if pictures is not None:
                parts.append(f"![Paired differences]({(pictures / f'differences_{order}.png').as_posix()})")
        if pictures is not None:
            parts.append(f"![Mean accuracy after each task]({(pictures / f'accuracy_{order}.png').as_posix()})")
    return "\n\n".join(parts) + "\n"


def check_markers(file: Path) -> None:
    """Check that `write_between_markers` can write into `file`.

    Raises:
        ValueError: if `file` does not exist or does not hold the two markers once each, in order.
    """
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    if lines.count(BEGIN) != 1 or lines.count(END) != 1 or lines.index(BEGIN) > lines.index(END):
        raise ValueError(f"{file} must hold, once each and in this order, the lines\n{BEGIN}\n{END}")


def write_between_markers(file: Path, text: str) -> None:
    """Put `text` in place of what stands between the lines `BEGIN` and `END` of a Markdown file."""
    check_markers(file)
    whole = file.read_text(encoding="utf-8")
    head, _, rest = whole.partition(f"{BEGIN}\n")
    tail = rest[rest.index(END) :]
    write_text(file, f"{head}{BEGIN}\n\n{text.strip()}\n\n{tail}")


def task_table(content: Mapping, cell: Callable[[Mapping], str]) -> str:
    """Return a table of arms by tasks, with a cell for each summary of a task."""
    rows = [
        [arm, *(cell(summary["tasks"][task]) for task in content["tasks"])] for arm, summary in content["arms"].items()
    ]
    return markdown_table(["arm", *content["tasks"]], rows)


def spread(value: Mapping) -> str:
    """Return a mean and its standard deviation, as far as there are such."""
    if value["mean"] is None:
        return "-"
    mean = f"{value['mean'] + 0.0:.1f}"
    return mean if value["sd"] is None else f"{mean} ± {value['sd']:.1f}"


def _loss(task: Mapping) -> str:
    return f"{task['drop'] + 0.0:.1f} = {task['superficial'] + 0.0:.1f} + {task['essential'] + 0.0:.1f}"


def interval(value: Mapping) -> str:
    """Return a mean difference and its 95 % interval, as far as there are such."""
    if value["mean"] is None:
        return "-"
    mean = f"{value['mean'] + 0.0:+.1f}"
    return mean if value["low"] is None else f"{mean} [{value['low']:+.1f}, {value['high']:+.1f}]"
