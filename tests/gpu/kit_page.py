"""The results of the kit as a page."""

from collections.abc import Callable


def as_markdown(results: dict) -> str:
    """Return the page of the results: the machine, every step's end, and what each measured."""
    machine = results["machine"]
    packages = ", ".join(f"{name} {number or 'absent'}" for name, number in machine["packages"].items())
    lines = ["# Measured on a GPU", ""]
    if results["rehearsal"]:
        lines += ["**A rehearsal: tiny sizes on the CPU. The figures say nothing.**", ""]
    lines += [f"{machine['gpu'] or 'no GPU'}, {machine['cores']} cores; Python {machine['python']}; {packages}.", ""]
    rows = [
        [name, record["state"], seconds_of(record), record["about"], record.get("reason", "")]
        for name, record in results["steps"].items()
    ]
    lines += table(["step", "end", "s, at most", "what", "reason"], rows)
    for name, record in results["steps"].items():
        if figures := record.get("figures"):
            lines += ["", f"## {name}", "", record["about"][0].upper() + record["about"][1:] + ".", ""]
            lines += SECTIONS.get(name.split("_")[0], plain)(figures)
        if said := record.get("said"):
            lines += ["", f"The end of what {name} said:", "", "```", said.replace("```", "'''").strip(), "```"]
    return "\n".join(lines) + "\n"


def seconds_of(record: dict) -> str:
    """How long a step took, of how long it may take."""
    return f"{record.get('seconds', '-')}, {record['limit_seconds']}"


def table(head: list[str], rows: list[list]) -> list[str]:
    """A table of Markdown."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + " --- |" * len(head), *lines[1:]]


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash where it was not measured."""
    return "-" if value is None else f"{value:.{digits}f}"


def plain(figures: dict) -> list[str]:
    """Figures of one level."""
    return table(["figure", "value"], [[key, value] for key, value in figures.items()])


def tests(figures: dict) -> list[str]:
    """How many tests passed, and the others by name."""
    lines = [", ".join(f"{figures[end]} {end}" for end in ("passed", "failed", "skipped")) + "."]
    return [*lines, "", *(f"- {name}" for name in figures["not_passed"])]


def penalty(figures: dict) -> list[str]:
    """The goals, and the times by the number of earlier tasks."""
    goals = [
        ["value + gradient over three bare products", 2.0, number(figures["time_over_gemm_floor"])],
        ["the same over the dense, index-list way", "", number(figures["time_over_dense_reference"])],
        ["per optimizer step at accumulation 4", 0.2, number(figures["time_over_dense_reference"] / 4)],
        ["extra peak memory of a matrix, MiB", 64, number(figures["extra_peak_mb"], 0)],
        ["bytes per element and task, on disk", 1.1, number(figures["bytes_per_element_disk"], 3)],
        ["bytes per element and task, resident", 1.1, number(figures["bytes_per_element_resident"], 3)],
        ["finding over a full top-k", 0.2, number(figures["find_over_full_topk"])],
    ]
    ways = [way for way in figures["seconds"] if way not in ("find", "full_topk")]
    rows = [
        [tasks, *(number(found["seconds"][way], 3) for way in ways)]
        for tasks, found in figures["by_number_of_tasks"].items()
    ]
    head = [f"{figures['matrices']} matrices, 7 earlier tasks", "goal", "measured"]
    return [*table(head, goals), "", *table(["earlier tasks", *(f"s, {way}" for way in ways)], rows)]


def whole_model(figures: dict) -> list[str]:
    """Memory and time of a step."""
    steps = figures["step_seconds"]
    row = [figures["rank"], figures["tasks"], figures["batch"], number(figures["memory_gb"], 0)]
    row += [number(figures["peak_gb"], 1), number(figures["key_elements_resident_gb"])]
    row += [number(steps["plain"]), number(steps["penalised"]), number(figures["slower_percent"], 0)]
    head = ["rank", "earlier tasks", "samples", "cap, GB", "peak, GB", "key elements, GB"]
    return table([*head, "s, without penalty", "s, with it", "slower by, %"], [row])


def plan(figures: dict) -> list[str]:
    """The planned peak beside the measured ones."""
    planned = figures["planned"]["gpu_memory"]["total"]
    rows = []
    for task, cost in figures["tasks"].items():
        memory = [number(planned / 1e9, 1), number(cost["peak_memory"] / 1e9, 1), cost["memory_of"]]
        rows.append([task, *memory, number(cost["step_seconds"]), number(cost["seconds"], 0)])
    head = ["task", "planned for the last task, GB", "measured peak, GB", "of", "s a step", "s a training"]
    disk = figures["planned"]["disk"]["total"] / 1e9, figures["run_folder_bytes"] / 1e9
    return [
        *table(head, rows),
        "",
        f"Run folder: planned {disk[0]:.2f} GB, measured {disk[1]:.2f} GB. All in all {figures['seconds']:.0f} s.",
    ]


def styles(figures: dict) -> list[str]:
    """The page of the comparison, a level lower; or the runs that are finished."""
    if "page" not in figures:
        return [f"{len(figures['finished'])} runs are finished: {', '.join(figures['finished']) or 'none'}."]
    return ["#" + line if line.startswith("#") else line for line in figures["page"].splitlines()]


#: By the first word of a step's name.
SECTIONS: dict[str, Callable[[dict], list[str]]] = {
    "tests": tests,
    "penalty": penalty,
    "fused": penalty,
    "llava": whole_model,
    "qwen": whole_model,
    "plan": plan,
    "styles": styles,
}
