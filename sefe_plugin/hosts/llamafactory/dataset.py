"""ASD on a dataset that the host has aligned, whatever its format on disk."""

import json
import logging
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from sefe_plugin.asd import Sample, diversify
from sefe_plugin.files import write_text


logger = logging.getLogger(__name__)


def diversify_dataset(dataset, name: str, ratio: float, training_args):
    """Rewrites the share `ratio` of a dataset's samples into other answer styles, in place.

    What every rewritten sample was is recorded in `asd.jsonl` in the run's output folder.

    Args:
        dataset: `datasets.Dataset` with the host's columns `_prompt` and `_response`, one turn each.
        name: the dataset's name, for messages and the record.
        ratio: share X in [0, 1].
        training_args: the host's training arguments; `seed` draws the samples, `output_dir` takes the record.

    Returns:
        The dataset of the same size and order, images untouched.

    Raises:
        ValueError: if a sample has more than one turn, or the dataset's own answer style cannot be told or rewritten.
    """
    samples = []
    for index, (prompt, response) in enumerate(zip(dataset["_prompt"], dataset["_response"], strict=True)):
        if len(prompt) != 1 or len(response) != 1:
            raise ValueError(
                f"`asd_ratio` rewrites samples of one turn; sample {index} of dataset {name} has "
                f"{len(prompt) + len(response)} messages. Leave `asd_ratio` out for this dataset."
            )
        samples.append(Sample(prompt[0]["content"], response[0]["content"]))
    try:
        rewritten, origins = diversify(samples, ratio, training_args.seed)
    except ValueError as error:
        raise ValueError(f"`asd_ratio` on dataset {name}: {error}") from error
    if training_args.should_save:
        _record(Path(training_args.output_dir) / "asd.jsonl", name, origins)
    counts = Counter(origin.style for origin in origins)
    logger.info("ASD rewrote %d of %d samples of %s: %s", len(origins), len(samples), name, dict(counts))
    changed = {origin.index: rewritten[origin.index] for origin in origins}

    def replace(row: dict, index: int) -> dict:
        if index in changed:
            row["_prompt"][0]["content"], row["_response"][0]["content"] = (
                changed[index].question,
                changed[index].answer,
            )
        return row

    return dataset.map(replace, with_indices=True, desc="Diversifying answer styles")


def _record(file: Path, name: str, origins) -> None:
    """Writes the origins of this dataset's rewritten samples, keeping those of other datasets of the run."""
    kept = []
    if file.is_file():
        lines = file.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if json.loads(line)["dataset"] != name]
    lines = kept + [json.dumps({"dataset": name, **asdict(origin)}, ensure_ascii=False) for origin in origins]
    write_text(file, "".join(f"{line}\n" for line in lines))
