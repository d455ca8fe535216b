"""What the kit measures: every step with its command, its time and what it needs."""

import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sefe_plugin.files import read_json


ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "tests" / "benchmarks"

#: The arms of the table of styles; the first is what the others are compared with.
STYLES = [ROOT / "recipes" / f"styles_{arm}.yaml" for arm in ("lora", "lora_asd", "reglora", "sefe")]
SEEDS = 3

#: The goal of value and gradient of the penalty over three bare products of matrices.
GOAL_OVER_FLOOR = 2.0

#: How far a rehearsal divides the sizes of models.
SHRINK = 16


@dataclass(frozen=True)
class Setting:
    """How the kit is run.

    Attributes:
        work: A folder for what a step leaves: figures, models, runs.
        rehearse: Whether the CPU and tiny sizes take the place of a GPU and true sizes.
        model: The folder of the language model of the table of styles.
    """

    work: Path
    rehearse: bool
    model: Path

    @property
    def device(self) -> str:
        """The device of the measurements."""
        return "cpu" if self.rehearse else "cuda"

    def figures_file(self, step: str) -> Path:
        """The file that a step's command writes."""
        return self.work / f"{step}.json"

    def shrunk(self) -> list[str]:
        """The option of a measurement that divides its sizes."""
        return ["--shrink", str(SHRINK)] if self.rehearse else []


def nothing(setting: Setting, figures: dict[str, dict]) -> None:
    """The reason to skip a step that has none."""


@dataclass(frozen=True)
class Step:
    """A step of the kit.

    Attributes:
        name: Its name in the results.
        about: What it measures.
        seconds: How long it may take.
        command: Its command line.
        figures: Read what the command left, also where it failed; None where it left nothing.
        skip: The reason not to do it, from the setting and the figures of the steps before; None where there is none.
    """

    name: str
    about: str
    seconds: int
    command: Callable[[Setting], list[str]]
    figures: Callable[[Setting], dict | None]
    skip: Callable[[Setting, dict[str, dict]], str | None] = nothing


def json_figures(name: str) -> Callable[[Setting], dict | None]:
    """Read the JSON file of a measurement."""

    def read(setting: Setting) -> dict | None:
        file = setting.figures_file(name)
        return read_json(file) if file.is_file() else None

    return read


def script(file: Path, *words: str) -> list[str]:
    """The command line of a Python file."""
    return [sys.executable, "-u", str(file), *words]


# the tests marked `gpu`


def gpu_test_files() -> list[str]:
    """The files of the tests marked `gpu`."""
    marked = (file for file in sorted((ROOT / "tests").rglob("test_*.py")) if "@pytest.mark.gpu" in file.read_text())
    return [str(file) for file in marked if file.parent != Path(__file__).parent]


def test_command(setting: Setting) -> list[str]:
    """Run them; a rehearsal runs one file, with its tests for the CPU."""
    rehearsed = ROOT / "tests" / "methods" / "reglora" / "test_union.py"
    chosen = ["-m", "", str(rehearsed)] if setting.rehearse else ["-m", "gpu", *gpu_test_files()]
    report = f"--junitxml={setting.figures_file('tests')}"
    return [sys.executable, "-u", "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", report, *chosen]


def test_figures(setting: Setting) -> dict | None:
    """Count the tests of pytest's report; name those that failed or were skipped."""
    file = setting.figures_file("tests")
    if not file.is_file():
        return None
    found: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
    for case in ElementTree.parse(file).getroot().iter("testcase"):
        ends = {child.tag for child in case}
        end = "failed" if ends & {"failure", "error"} else "skipped" if "skipped" in ends else "passed"
        found[end].append(f"{case.get('classname')}::{case.get('name')}")
    return {**{end: len(names) for end, names in found.items()}, "not_passed": found["failed"] + found["skipped"]}


# the penalty


def penalty_command(setting: Setting, *options: str, name: str) -> list[str]:
    """Measure the penalty of all matrices; a rehearsal measures small ones."""
    file = str(setting.figures_file(name))
    words = ["--device", setting.device, *setting.shrunk(), *options, "--json", file]
    return script(BENCHMARKS / "bench_reglora.py", *words)


def fused_reason(setting: Setting, figures: dict[str, dict]) -> str | None:
    """The fused kernel is measured where the plain path misses its goal."""
    if setting.rehearse:
        return "a fused kernel needs a GPU"
    if "penalty" not in figures:
        return "the step penalty, which says whether it is needed, left no figures"
    ratio = figures["penalty"]["time_over_gemm_floor"]
    if ratio <= GOAL_OVER_FLOOR:
        return f"the plain path takes {ratio:.2f} times three bare products, at most the goal of {GOAL_OVER_FLOOR}"
    return None


# a whole model


def whole_model(name: str, model: str, memory_gb: int, batch: int) -> Step:
    """A training step of a model of 7 billion parameters in 4 bit, in capped memory."""

    def command(setting: Setting) -> list[str]:
        file = str(setting.figures_file(name))
        rank, steps, samples = (8, 1, 1) if setting.rehearse else (128, 8, batch)
        words = ["--model", model, "--rank", str(rank), "--batch", str(samples), "--memory-gb", str(memory_gb)]
        words += ["--steps", str(steps), *setting.shrunk(), "--json", file]
        return script(BENCHMARKS / "bench_whole_model.py", *words)

    about = f"a training step of {model} in 4 bit, {batch} samples of 700 tokens, at most {memory_gb} GB"
    return Step(name, about, 100, command, json_figures(name))


# a whole recipe


def plan_command(setting: Setting) -> list[str]:
    """Train two tasks by the recipe for 24 GB, and compare its peak of memory with the plan's."""
    file, folder = str(setting.figures_file("plan")), str(setting.work / "real_size")
    # what a CPU cannot do in seconds: 4 bit, 16 bit, 576 tokens in batches of four
    small = ["quantization_bit=null", "bf16=false", "optim=adamw_torch", "lora_rank=8", "lora_alpha=16"]
    small += ["max_steps=1", "gradient_accumulation_steps=1", "per_device_train_batch_size=1"]
    small += ["max_test_samples=1", "max_new_tokens=2"]
    words = [str(ROOT / "recipes" / "coin_sefe_qlora.yaml"), *(small if setting.rehearse else [])]
    return script(BENCHMARKS / "bench_real_size.py", *words, "--folder", folder, *setting.shrunk(), "--json", file)


# the table of styles


def styles_command(setting: Setting) -> list[str]:
    """Compare the arms over the seeds; a rehearsal compares two of the small text recipe, one step for each task."""
    out = ["--out", str(setting.work / "styles")]
    model = f"model_name_or_path={setting.model}"
    compare = [sys.executable, "-u", "-m", "sefe_plugin.cli", "compare"]
    if setting.rehearse:
        recipe = str(ROOT / "recipes" / "text_sefe.yaml")
        small = [model, "max_steps=1", "max_test_samples=2", "lora_rank=2", "lora_target=q_proj"]
        return [*compare, recipe, f"{recipe}+reglora_key_ratio=0.05", "--seeds", "1", *out, "--set", *small]
    # each run has one thread; a small model leaves most of a GPU to others
    jobs = str(len(STYLES) * SEEDS)
    return [*compare, *map(str, STYLES), "--seeds", str(SEEDS), "--jobs", jobs, *out, "--set", model, "bf16=true"]


def styles_reason(setting: Setting, figures: dict[str, dict]) -> str | None:
    """The table needs its recipes and its language model."""
    absent = [str(file.relative_to(ROOT)) for file in STYLES if not file.is_file()]
    if absent and not setting.rehearse:
        return f"these recipes do not exist: {', '.join(absent)}"
    if not (setting.model / "config.json").is_file():
        return f"there is no model in {setting.model}; `sefe smol fetch` writes one, and `--model` names it"
    return None


def styles_figures(setting: Setting) -> dict | None:
    """The page and its data; where runs are missing, which are finished."""
    out = setting.work / "styles"
    if (out / "compare.json").is_file():
        return {"page": (out / "compare.md").read_text(encoding="utf-8"), **read_json(out / "compare.json")}
    if (out / "runs.json").is_file():
        return {"finished": sorted(read_json(out / "runs.json"))}
    return None


STEPS = (
    Step("tests", "the tests marked `gpu`", 280, test_command, test_figures),
    Step(
        "penalty",
        "value and gradient of RegLoRA's penalty, all matrices of LLaVA-1.5-7B",
        150,
        lambda setting: penalty_command(setting, name="penalty"),
        json_figures("penalty"),
    ),
    Step(
        "fused",
        "the same with a fused kernel",
        100,
        lambda setting: penalty_command(setting, "--fused", name="fused"),
        json_figures("fused"),
        fused_reason,
    ),
    whole_model("llava_24", "llava", 24, batch=4),
    whole_model("llava_16", "llava", 16, batch=1),
    whole_model("qwen_24", "qwen2_5_vl", 24, batch=4),
    whole_model("qwen_16", "qwen2_5_vl", 16, batch=1),
    Step(
        "plan",
        "`sefe plan` beside a training by coin_sefe_qlora.yaml at its true size",
        210,
        plan_command,
        json_figures("plan"),
    ),
    Step(
        "styles",
        f"the benchmark styles, {len(STYLES)} arms, {SEEDS} seeds",
        360,
        styles_command,
        styles_figures,
        styles_reason,
    ),
)
