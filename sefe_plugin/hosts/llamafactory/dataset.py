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
    """Rewrites the share `ratio` of a dataset's questions into other answer styles, in place.

    A conversation of several turns counts as that many questions, each with its answer. What every rewritten question
    was is recorded in `asd.jsonl` in the run's output folder, its index counted over all turns of the dataset.

    Args:
        dataset: `datasets.Dataset` with the host's columns `_prompt` and `_response`.
        name: the dataset's name, for messages and the record.
        ratio: share X in [0, 1].
        training_args: the host's training arguments; `seed` draws the samples, `output_dir` takes the record.

    Returns:
        The dataset of the same size and order, images untouched.

    Raises:
        ValueError: if a sample is no series of questions and answers, or the dataset's own answer style cannot be
            told or rewritten.
    """
    samples, first_turns = [], []
    for index, (prompt, response) in enumerate(zip(dataset["_prompt"], dataset["_response"], strict=True)):
        messages = [*prompt, *response]
        if not response or [message["role"] for message in messages] != ["user", "assistant"] * (len(messages) // 2):
            raise ValueError(
                f"`asd_ratio` rewrites questions and their answers; sample {index} of dataset {name} has the roles "
                f"{[message['role'] for message in messages]}. Leave `asd_ratio` out for this dataset."
            )
        first_turns.append(len(samples))
        texts = [message["content"] for message in messages]
        samples += [Sample(question, answer) for question, answer in zip(texts[::2], texts[1::2], strict=True)]
    try:
        rewritten, origins = diversify(samples, ratio, training_args.seed)
    except ValueError as error:
        raise ValueError(f"`asd_ratio` on dataset {name}: {error}") from error
    if training_args.should_save:
        _record(Path(training_args.output_dir) / "asd.jsonl", name, origins)
    counts = Counter(origin.style for origin in origins)
    logger.info("ASD rewrote %d of %d questions of %s: %s", len(origins), len(samples), name, dict(counts))

    def replace(row: dict, index: int) -> dict:
        messages = [*row["_prompt"], *row["_response"]]
        for turn in range(len(messages) // 2):
            sample = rewritten[first_turns[index] + turn]
            messages[2 * turn]["content"], messages[2 * turn + 1]["content"] = sample.question, sample.answer
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
