"""The model card of a sequence's model: what it was trained on, how, with what result, and how it is loaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sefe_plugin.evaluation.report_data import metric_rows
from sefe_plugin.evaluation.report_text import markdown_table
from sefe_plugin.evaluation.scorers import spec_text
from sefe_plugin.files import MODEL_CONFIG_FILE, read_json
from sefe_plugin.versions import in_words


CARD_FILE = "README.md"

_PAPER = "https://arxiv.org/abs/2505.02486"

#: What a base may say of its licence.
_LICENSE_KEYS = ("license", "license_name", "license_link")


class Exported(NamedTuple):
    """A model of several tasks.

    Attributes:
        name: Its name.
        recipe: The recipe as a manifest records it.
        complete: The records of the tasks that it has learned.
        report: The report of the run so far.
        is_adapter: Whether it is an adapter, to be loaded on its base.
        needs_plugin: Whether it is of an adapter type that PEFT does not have itself.
        sees_images: Whether a processor of pictures belongs to it.
    """

    name: str
    recipe: Mapping[str, Any]
    complete: Sequence[Mapping[str, Any]]
    report: Mapping[str, Any]
    is_adapter: bool
    needs_plugin: bool
    sees_images: bool

    @property
    def unfinished(self) -> str | None:
        """Return a sentence on the tasks that are still to come; None where there are none."""
        count, total = len(self.complete), len(self.recipe["tasks"])
        if count == total:
            return None
        return f"The run is unfinished: this is the model of the first {count} of {total} tasks."


def model_card(exported: Exported) -> str:
    """Return the text of a model card, with the metadata that the Hugging Face Hub reads."""
    from huggingface_hub import ModelCard, ModelCardData

    recipe = exported.recipe
    base, licence = recipe["model_name_or_path"], base_licence(recipe)
    data = ModelCardData(
        # the hub refuses a base that is none of its own
        base_model=None if _is_local(base) else base,
        base_model_relation=None if _is_local(base) else "adapter" if exported.is_adapter else "finetune",
        library_name="peft" if exported.is_adapter else "transformers",
        tags=["sefe-plugin", "llama-factory", "continual-learning", recipe["cl_method"]],
        model_name=exported.name,
        eval_results=_results(exported),
        **(licence or {"license": "unknown"}),
    )
    parts = [
        f"# {exported.name}",
        _about(exported),
        "## Load it",
        _loading(exported),
        "## Tasks",
        _tasks(exported),
        _metrics(exported.report),
        "## Training",
        _training(exported),
        "## Licence",
        f"The base's licence is `{licence['license']}`, as the base says of itself."
        if licence
        else "Unknown: nothing beside the base says what its licence is. Look it up before you pass the model on.",
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n", ignore_metadata_errors=True))


def new_output_dir(recipe: Mapping[str, Any]) -> str:
    """Return where a run of the same recipe goes: `runs/mine_again` for one in any folder called `mine`."""
    return f"runs/{Path(recipe['output_dir']).name}_again"


def base_licence(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a base says of its licence, in its card or its configuration; nothing where it does not.

    A base of the hub is looked up in this machine's cache; nothing is downloaded.

    Args:
        recipe: With `model_name_or_path` and, optionally, `model_revision`.
    """
    from huggingface_hub.repocard import metadata_load

    card, config = (_base_file(recipe, name) for name in (CARD_FILE, MODEL_CONFIG_FILE))
    try:
        said = (metadata_load(card) if card else None) or {}
    except (ValueError, yaml.YAMLError):
        said = {}  # a card without metadata that can be read says nothing of a licence
    if "license" not in said and config:
        said = read_json(config)
    return {key: said[key] for key in _LICENSE_KEYS if said.get(key)} if said.get("license") else {}


def _base_file(recipe: Mapping[str, Any], name: str) -> Path | None:
    """Return a file of the base that is on this machine."""
    from huggingface_hub import try_to_load_from_cache

    model = recipe["model_name_or_path"]
    if _is_local(model):
        file = Path(model) / name
        return file if file.is_file() else None
    found = try_to_load_from_cache(model, name, revision=recipe.get("model_revision") or "main")
    return Path(found) if isinstance(found, str) else None


def _is_local(model: str) -> bool:
    """Tell whether a model is no name of the hub, which is `name` or `owner/name`."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(model)
    except HFValidationError:
        return True
    return Path(model).exists()


def _shown_base(exported: Exported) -> str:
    base = exported.recipe["model_name_or_path"]
    return f"a local model, `{Path(base).name}`" if _is_local(base) else f"[{base}](https://huggingface.co/{base})"


def _about(exported: Exported) -> str:
    recipe, count = exported.recipe, len(exported.complete)
    what = "An adapter for" if exported.is_adapter else "A model made of"
    words = [
        f"{what} {_shown_base(exported)}, trained on {count} task{'s' * (count > 1)} one after the other by "
        f"`cl_method: {recipe['cl_method']}` and `carry: {recipe['carry']}` of sefe-plugin, with LLaMA-Factory.",
    ]
    if recipe.get("asd_ratio"):
        words.append(
            f"A share of {recipe['asd_ratio']} of the samples was rewritten into other answer styles (ASD, "
            f"[arXiv 2505.02486]({_PAPER}))."
        )
    if exported.is_adapter and recipe.get("quantization_bit"):
        words.append(f"It was trained on the base in {recipe['quantization_bit']} bit.")
    words += [exported.unfinished] if exported.unfinished else []
    if exported.needs_plugin:
        words.append("**It needs sefe-plugin to be loaded**: its type of adapter is not one of PEFT's own.")
    return " ".join(words)


def _loading(exported: Exported) -> str:
    auto = "AutoModelForImageTextToText" if exported.sees_images else "AutoModelForCausalLM"
    reader = "AutoProcessor" if exported.sees_images else "AutoTokenizer"
    name = "processor" if exported.sees_images else "tokenizer"
    remote = ", trust_remote_code=True" * bool(exported.recipe.get("trust_remote_code"))
    base = exported.recipe["model_name_or_path"]
    place = f"path/to/{Path(base).name}" if _is_local(base) else base
    lines = ["from peft import PeftModel"] * exported.is_adapter
    lines += [f"from transformers import {auto}, {reader}"]
    lines += ["from sefe_plugin.methods import methods"] * exported.needs_plugin
    lines += ["", 'folder = "."  # this folder, or the name of this repository']
    if not exported.is_adapter:
        lines += [f'model = {auto}.from_pretrained(folder, dtype="auto"{remote})']
    else:
        lines += [f'model = {auto}.from_pretrained("{place}", dtype="auto"{remote})']
        if exported.needs_plugin:
            lines += [f'with methods()["{exported.recipe["cl_method"]}"]().building(model):']
        lines += ["    " * exported.needs_plugin + "model = PeftModel.from_pretrained(model, folder)"]
    lines += [f"{name} = {reader}.from_pretrained(folder{remote})"]
    return "\n".join(["```python", *lines, "```"])


def _final(exported: Exported) -> list[tuple[str, float | None]]:
    """Return the tasks and their accuracies after the last one."""
    count, report = len(exported.complete), exported.report
    row = report["accuracy_matrix"][count - 1]
    return list(zip(report["tasks"][:count], row[:count], strict=True))


def _tasks(exported: Exported) -> str:
    report, final = exported.report, _final(exported)
    count = len(final)
    errors = report.get("stderr_matrix", [[None] * count] * count)[count - 1]
    entries = exported.recipe["tasks"][:count]
    rows = [
        [
            name,
            str(entry.get("dataset")),
            str(entry.get("test_dataset") or "-"),
            spec_text(entry.get("scorer") or "-"),
            _number(report["accuracy_matrix"][index][index]),
            _number(accuracy),
            _number(errors[index]),
            str(report.get("counts", {}).get(name, "-")),
        ]
        for index, ((name, accuracy), entry) in enumerate(zip(final, entries, strict=True))
    ]
    head = ["task", "trained on", "scored on", "scorer", "just learned", "at the end", "±", "answers"]
    return "\n\n".join(
        [
            "Accuracy in percent, just after the task and after the last one; ± is the standard error of the latter.",
            markdown_table(head, rows),
        ]
    )


def _metrics(report: Mapping[str, Any]) -> str:
    rows = [[head, _number(value), meaning] for head, meaning, (value,) in metric_rows([report])]
    return markdown_table(["metric", "value", "meaning"], rows)


def _training(exported: Exported) -> str:
    report = exported.report
    seeds = report["seed"] if isinstance(report["seed"], list) else [report["seed"]]
    versions = "; later ".join(map(in_words, report.get("versions", ()))) or "not recorded"
    return (
        f"`recipe.yaml` holds all keys: `llamafactory-cli train recipe.yaml`, with sefe-plugin installed, trains it "
        f"again, into `{new_output_dir(exported.recipe)}`, where base and data are in the places that it names. "
        f"Seed {', '.join(map(str, seeds))}. Versions: {versions}."
    )


def _results(exported: Exported) -> list:
    from huggingface_hub import EvalResult

    entries = exported.recipe["tasks"]
    return [
        EvalResult(
            task_type="image-text-to-text" if exported.sees_images else "text-generation",
            dataset_type=str(entry.get("test_dataset")),
            dataset_name=name,
            metric_type="accuracy",
            metric_name=f"accuracy ({entry.get('scorer')}), percent",
            metric_value=accuracy,
        )
        for (name, accuracy), entry in zip(_final(exported), entries, strict=False)
        if accuracy is not None
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
