"""ASD on a dataset that the host has aligned, whatever its format on disk."""

import hashlib
import json
import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from sefe_plugin.answers.styles import FORMAT_LINES
from sefe_plugin.answers.texts import split_question
from sefe_plugin.asd import Origin, Sample, diversify
from sefe_plugin.evaluation.scorers import scorer_of
from sefe_plugin.json_lines import read_json_lines, write_json_lines


logger = logging.getLogger(__name__)

#: Column of a dataset that waits for the split: the name of the dataset that a row is of.
_NAME = "_asd_dataset"
#: The answer style that the scorer of the task in training reads; None where it is not known.
_scored_as: ContextVar[str | None] = ContextVar("_scored_as", default=None)


@contextmanager
def scored_by(test_sets: Sequence[Mapping[str, Any]] | None) -> Iterator[None]:
    """Let the scorer of a sequence's current task tell what its answers are; it is that of its own test set, if any.

    Without one, or with `scorer: none`, the samples alone tell it.
    """
    own = next((one["scorer"] for one in test_sets or () if one.get("own")), None)
    token = _scored_as.set(scorer_of(own).style if own else None)
    try:
        yield
    finally:
        _scored_as.reset(token)


def await_split(dataset: Dataset, name: str) -> Dataset:
    """Mark the rows of a dataset that is to be split before it is diversified."""
    return dataset.add_column(_NAME, [name] * len(dataset))


def diversify_training_part(parts: dict[str, Dataset], data_args, training_args) -> dict[str, Dataset]:
    """Rewrite a share of each dataset's rows in the part that is trained, and none of the held-out part.

    Args:
        parts: the parts of the merged datasets, with the rows that `await_split` marked; "train" is the trained one.
        data_args: as in `diversify_dataset`.
        training_args: the host's training arguments.

    Returns:
        The parts in the same order and without marks; rows beside the originals come last.
    """
    rows: dict[str, list[int]] = {}
    for index, name in enumerate(parts["train"][_NAME]):
        rows.setdefault(name, []).append(index)
    bare = {part: dataset.remove_columns(_NAME) for part, dataset in parts.items()}
    train = bare["train"]
    diversified = [diversify_dataset(train.select(rows[name]), name, data_args, training_args) for name in rows]
    places = []
    for name, dataset in zip(rows, diversified, strict=True):
        places += rows[name] + [len(train)] * (len(dataset) - len(rows[name]))
    order = sorted(range(len(places)), key=places.__getitem__)
    return {**bare, "train": concatenate_datasets(diversified).select(order)}


def diversify_dataset(dataset: Dataset, name: str, data_args, training_args) -> Dataset:
    """Rewrite the share `asd_ratio` of a dataset's questions into other answer styles, in place.

    Example: a conversation of two turns in a dataset of short answers, the first of them rewritten::

        before                                              after
        What is it?                                         What is it?
        Answer the question using a single word or phrase.  Is the answer dog?
                                                            Answer the question with yes or no.
        > cat                                               > No
        What colour is it?                                  What colour is it?
                                                            Answer the question using a single word or phrase.
        > black                                             > black

    Each turn counts as one question with its answer. `asd.jsonl` in the run's output folder records every rewritten
    question before and after; its index counts all turns of the dataset. The second turn above gets a response-format
    line, that of the dataset's own style: before, it relied on the line of the first turn, which now asks for another
    style. So does every turn without such a line in a conversation that has a rewritten turn; all others stay as they
    are.

    With `asd_extra` the dataset stays as it is, and the conversations with a rewritten turn follow it as above.

    Args:
        dataset: `datasets.Dataset` with the host's columns `_prompt` and `_response`.
        name: the dataset's name, for messages and the record.
        data_args: the host's data arguments with our keys `asd_ratio` and `asd_extra`.
        training_args: the host's training arguments; `seed` draws the samples, `output_dir` takes the record.

    Returns:
        The dataset in the same order, images untouched; with `asd_extra` it is longer, else of the same size.

    Raises:
        ValueError: if a sample is no series of questions and answers, or the dataset's own answer style cannot be
            told or rewritten.
    """
    rewritten, origins, first_turns = rewrite(dataset, name, data_args.asd_ratio, training_args.seed)
    if training_args.should_save:
        _record(Path(training_args.output_dir) / "asd.jsonl", name, origins, rewritten)
    _add_lines(rewritten, origins, first_turns)
    counts = Counter(origin.style for origin in origins)
    logger.info("ASD rewrote %d of %d questions of %s: %s", len(origins), len(rewritten), name, dict(counts))

    changed = sorted({bisect_right(first_turns, origin.index) - 1 for origin in origins})
    texts = {index: rewritten[first_turns[index] : first_turns[index + 1]] for index in changed}
    name_of_result = _fingerprint(dataset, texts)
    del rewritten, origins

    def replace(prompts: list, responses: list, indices: list[int]) -> dict[str, list]:
        for prompt, response, index in zip(prompts, responses, indices, strict=True):
            messages = [*prompt, *response]
            for turn, sample in enumerate(texts.get(index, ())):
                messages[2 * turn]["content"], messages[2 * turn + 1]["content"] = sample.question, sample.answer
        return {"_prompt": prompts, "_response": responses}

    diversified = dataset.map(
        replace,
        with_indices=True,
        batched=True,
        input_columns=["_prompt", "_response"],
        new_fingerprint=name_of_result,
        desc="Diversifying answer styles",
    )
    return concatenate_datasets([dataset, diversified.select(changed)]) if data_args.asd_extra else diversified


def _fingerprint(dataset: Dataset, texts: Mapping[int, Sequence[Sample]]) -> str:
    """Return what names a dataset with some conversations replaced, in the cache of `datasets`.

    Without it `datasets` pickles all texts to find a name for what is made of them.

    Args:
        dataset: As it is before.
        texts: Number of each replaced conversation -> its turns.
    """
    digest = hashlib.sha256(f"asd {dataset._fingerprint}".encode())
    for index, turns in texts.items():
        digest.update(json.dumps([index, *(asdict(turn) for turn in turns)]).encode())
    return digest.hexdigest()[:32]


def rewrite(dataset, name: str, ratio: float, seed: int) -> tuple[list[Sample], list[Origin], list[int]]:
    """Rewrite the share `ratio` of all turns of a dataset as the host aligned it.

    Args:
        dataset: as in `diversify_dataset`.
        name: its name, for messages.
        ratio: share X in [0, 1].
        seed: draws the samples.

    Returns:
        All turns; what the rewritten ones were; where each conversation starts, and the end of the last one.

    Raises:
        ValueError: as in `diversify_dataset`.
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
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"`asd_ratio` rewrites texts; sample {index} of dataset {name} must have a text in every message, got "
                f"{texts!r:.200}. Mend or drop it, or leave `asd_ratio` out for this dataset."
            )
        samples += [Sample(question, answer) for question, answer in zip(texts[::2], texts[1::2], strict=True)]
    try:
        rewritten, origins = diversify(samples, ratio, seed, scored_as=_scored_as.get())
    except ValueError as error:
        raise ValueError(f"`asd_ratio` on dataset {name}: {error} `asd_ratio: 0` trains it as it is.") from error
    return rewritten, origins, [*first_turns, len(samples)]


def _add_lines(samples: list[Sample], origins: Sequence[Origin], first_turns: Sequence[int]) -> None:
    """Give a format line to the turns beside rewritten ones that have none, in place.

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


def _record(file: Path, name: str, origins: Sequence[Origin], rewritten: Sequence[Sample]) -> None:
    """Write this dataset's rewritten samples before and after, and keep those of other datasets of the run."""
    kept = [record for record in read_json_lines(file) if record["dataset"] != name] if file.is_file() else []
    records = (
        {
            "dataset": name,
            "index": origin.index,
            "native_style": origin.native_style,
            "style": origin.style,
            "before": {"question": origin.question, "answer": origin.answer},
            "after": asdict(rewritten[origin.index]),
        }
        for origin in origins
    )
    write_json_lines(file, [*kept, *records])
