"""What a data folder offers to a sequence: which of its datasets are tasks, how each is tested, who can score it.

Example: `charts_train` and `charts_test` of dataset_info.json become a task `charts`; its gold answers are letters of
options, so its scorer is `multiple_choice`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from sefe_plugin.answers.texts import count_words
from sefe_plugin.data.layout import read_info
from sefe_plugin.data.test_sets import read_test_set
from sefe_plugin.evaluation.scorers import NO_SCORER, SCORERS, Scorer, spec_faults
from sefe_plugin.recipe.retention import name_rule_errors
from sefe_plugin.words import near


#: Words of a name that say what a dataset is for; of several test sets the first word here goes first.
_TEST_WORDS = ("test", "val", "validation", "valid", "dev", "eval", "evaluation")
_TRAIN_WORDS = ("train", "training", "sft")

#: In the place of a test set: a task that is trained only.
UNTESTED = "none"

#: The scorers that are guessed, the most particular first. The last one reads every text.
_GUESSED = ("box", "yes_no", "multiple_choice", "text_vqa", "short_answer")

#: Words of a gold answer from which on no model gives it word for word.
_LONG_ANSWER = 6


@dataclass(frozen=True)
class Candidate:
    """A dataset that may be a task.

    Attributes:
        name: Of the task: the dataset's without its word for training.
        dataset: To train on, by its name in dataset_info.json.
        test_dataset: To test on; None where no name fits.
    """

    name: str
    dataset: str
    test_dataset: str | None


def declared(folder: Path) -> dict[str, Mapping]:
    """Return the datasets of a folder.

    Raises:
        ValueError: If there is no dataset_info.json, or it cannot be read, or holds no dataset.
    """
    info = folder / "dataset_info.json"
    if not info.is_file():
        raise ValueError(f"{info} does not exist. Name the folder of LLaMA-Factory's dataset_info.json.")
    entries = read_info(info)
    if not entries:
        raise ValueError(f"{info} declares no dataset. Describe your files there, as for LLaMA-Factory.")
    return entries


def candidates(names: Iterable[str]) -> list[Candidate]:
    """Find the datasets that may be tasks, each with its test set, by their names.

    Example:
        >>> candidates(["a_train", "a_val", "a_test", "b", "b-eval", "test_c", "d"])[:2]
        [Candidate(name='a', dataset='a_train', test_dataset='a_test'), Candidate(name='b', dataset='b', \
test_dataset='b-eval')]
        >>> candidates(["train_c", "test_c", "d"])[1:]
        [Candidate(name='d', dataset='d', test_dataset=None)]
    """
    names = list(names)
    tests: dict[str, dict[str, str]] = {}
    for name in names:
        stem, word = _split(name, _TEST_WORDS)
        if word:
            tests.setdefault(stem.casefold(), {})[word] = name
    found = []
    for name in names:
        if not _split(name, _TEST_WORDS)[1]:
            stem, _ = _split(name, _TRAIN_WORDS)
            own = tests.get(stem.casefold(), {})
            found.append(Candidate(_task_name(stem), name, next((own[w] for w in _TEST_WORDS if w in own), None)))
    return found


def candidate(entry: str, names: Iterable[str]) -> tuple[Candidate, str | None]:
    """Read one task of a list: TRAIN, TRAIN:TEST or TRAIN:TEST:SCORER; TRAIN:none is trained only.

    Args:
        entry: As it was typed.
        names: All names of dataset_info.json.

    Returns:
        The task, and its scorer if one is named.

    Raises:
        ValueError: If a name is not declared, a scorer is none or needs options, or there is no test set.
    """
    names = list(names)
    train, test, scorer, *more = [*(part.strip() for part in entry.split(":")), "", ""][: max(3, entry.count(":") + 1)]
    if more:
        raise ValueError(f"{entry!r} must be TRAIN, TRAIN:TEST or TRAIN:TEST:SCORER.")
    untested = test == UNTESTED and UNTESTED not in names
    for name in (train,) if untested or not test else (train, test):
        if name not in names:
            raise ValueError(f"{name!r} is not declared in dataset_info.json.{near(name, names)}")
    if scorer and (faults := spec_faults(scorer)):
        raise ValueError(f"{' '.join(faults)} Options are written into the recipe, under `scorer`.")
    found = next((one for one in candidates(names) if one.dataset == train), Candidate(_task_name(train), train, None))
    if untested:
        if scorer:
            raise ValueError(f"{entry!r}: a task without a test set has no scorer. Write {train}:{UNTESTED}.")
        return Candidate(found.name, train, None), None
    found = Candidate(found.name, train, test or found.test_dataset)
    if not found.test_dataset:
        stem = _split(train, _TRAIN_WORDS)[0]
        raise ValueError(
            f"no name in dataset_info.json, such as {stem}_test, says what tests {train!r}. Write {train}:TEST with "
            f"the name of its test set, or {train}:{UNTESTED} to train it only."
        )
    return found, scorer or None


def guess_scorer(test_dataset: str, folder: Path) -> str:
    """Return the most particular scorer that reads every gold answer of a test set; "none" where all are long texts.

    Raises:
        ValueError: If none does, or the test set is no local file.
        OSError: If the file cannot be read.
    """
    entry = declared(folder)[test_dataset]
    name = entry.get("file_name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not (folder / name).is_file():
        raise ValueError(f"the test set {test_dataset!r} must be a local .json or .jsonl file; got {entry!r}.")
    reason = ""
    for name in _GUESSED:
        scorer = SCORERS[name]
        records = read_test_set(test_dataset, folder, scorer)
        try:
            _require_gold(records, scorer)
        except ValueError as error:
            reason = str(error)
        else:
            return NO_SCORER if scorer.gold == "answer" and long_answers(test_dataset, folder) else name
    raise ValueError(f"no scorer can read the gold answers of {test_dataset!r}: {reason}.")


def long_answers(test_dataset: str, folder: Path) -> int | None:
    """Return how many words the middle one of a test set's gold answers has, if those are too many to be repeated."""
    reader = SCORERS[_GUESSED[-1]]
    records = read_test_set(test_dataset, folder, reader)
    golds = [record[reader.gold] for record in records if isinstance(record.get(reader.gold), str)]
    words = round(median(map(count_words, golds))) if golds else 0
    return words if words >= _LONG_ANSWER else None


def _require_gold(records: Iterable[Mapping], scorer: Scorer) -> None:
    """Raise ValueError at the first record that a scorer cannot read."""
    number = 0
    for number, record in enumerate(records, start=1):
        if scorer.alternatives and not any(field in record for field in scorer.alternatives):
            raise ValueError(f"record {number} has no field {scorer.alternatives[0]!r}")
        try:
            scorer.check(record)
        except ValueError as error:
            raise ValueError(f"record {number}: {error}") from error
    if not number:
        raise ValueError("it holds no records")


def _split(name: str, words: tuple[str, ...]) -> tuple[str, str | None]:
    """Take a word for training or testing off the end or the beginning of a name."""
    parts = re.split(r"([_\-. ])", name)
    for part, rest in ((parts[-1], parts[:-2]), (parts[0], parts[2:])):
        if rest and part.casefold() in words:
            return "".join(rest), part.casefold()
    return name, None


def _task_name(stem: str) -> str:
    """Make a task's name of a dataset's."""
    return stem if not name_rule_errors(stem) else re.sub(r"[^\w.-]+", "_", stem)[:60]
