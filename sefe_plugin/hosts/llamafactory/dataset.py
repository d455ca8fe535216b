"""ASD on a dataset that the host has aligned, whatever its format on disk."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from sefe_plugin.answers.styles import FORMAT_LINES
from sefe_plugin.answers.texts import split_question
from sefe_plugin.asd import Origin, Sample, diversify
from sefe_plugin.files import write_text


logger = logging.getLogger(__name__)


def diversify_dataset(dataset, name: str, ratio: float, training_args):
    """Rewrites the share `ratio` of a dataset's questions into other answer styles, in place.

    Example: a conversation of two turns in a dataset of short answers, the first of them rewritten::

        before                                              after
        What is it?                                         What is it?
        Answer the question using a single word or phrase.  Is the answer dog?
                                                            Answer the question with yes or no.
        > cat                                               > No
        What colour is it?                                  What colour is it?
                                                            Answer the question using a single word or phrase.
        > black                                             > black

    Each turn counts as one question with its answer. `asd.jsonl` in the run's output folder records what every
    rewritten question was; its index counts all turns of the dataset. The second turn above gets a response-format
    line, that of the dataset's own style: before, it relied on the line of the first turn, which now asks for another
    style. So does every turn without such a line in a conversation that has a rewritten turn; all others stay as they
    are.

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
        raise ValueError(f"`asd_ratio` on dataset {name}: {error} `asd_ratio: 0` trains it as it is.") from error
    if training_args.should_save:
        _record(Path(training_args.output_dir) / "asd.jsonl", name, origins)
    _add_lines(rewritten, origins, [*first_turns, len(samples)])
    counts = Counter(origin.style for origin in origins)
    logger.info("ASD rewrote %d of %d questions of %s: %s", len(origins), len(samples), name, dict(counts))

    def replace(row: dict, index: int) -> dict:
        messages = [*row["_prompt"], *row["_response"]]
        for turn in range(len(messages) // 2):
            sample = rewritten[first_turns[index] + turn]
            messages[2 * turn]["content"], messages[2 * turn + 1]["content"] = sample.question, sample.answer
        return row

    return dataset.map(replace, with_indices=True, desc="Diversifying answer styles")


def _add_lines(samples: list[Sample], origins: Sequence[Origin], first_turns: Sequence[int]) -> None:
    """Gives a format line to the turns beside rewritten ones that have none, in place.

    Args:
        samples: all turns of the dataset.
        origins: what the rewritten ones were.
        first_turns: where each conversation starts, and the end of the last one.
    """
    rewritten = {origin.index for origin in origins}
    # boxes have no line: the questions that ask for them say so themselves
    line = FORMAT_LINES.get(origins[0].native_style) if origins else None
    for start, end in pairwise(first_turns if line else ()):
        if rewritten.isdisjoint(range(start, end)):
            continue
        for index in range(start, end):
            question, answer = samples[index].question, samples[index].answer
            if index not in rewritten and split_question(question)[2] is None:
                samples[index] = Sample(f"{question.rstrip()}\n{line}", answer)


def _record(file: Path, name: str, origins) -> None:
    """Writes the origins of this dataset's rewritten samples, keeping those of other datasets of the run."""
    kept = []
    if file.is_file():
        # only line feeds end a record: a text may hold other line separators
        lines = file.read_text(encoding="utf-8").split("\n")
        kept = [line for line in lines if line and json.loads(line)["dataset"] != name]
    lines = kept + [json.dumps({"dataset": name, **asdict(origin)}, ensure_ascii=False) for origin in origins]
    write_text(file, "".join(f"{line}\n" for line in lines))
