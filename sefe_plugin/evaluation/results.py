"""What a run keeps of its answers to test sets: the predictions, and what they are worth."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sefe_plugin.evaluation.scorers import NO_SCORER, Spec, score_predictions, scorer_of, scorers, spec_text
from sefe_plugin.files import write_json
from sefe_plugin.json_lines import read_json_lines, write_json_lines


logger = logging.getLogger(__name__)

SCORES_FILE = "scores.json"

#: From an official rule's name to the rule: test records with their "prediction" -> accuracy in percent.
OfficialRules = Callable[[str], Callable[[Sequence[Mapping]], float]]


def predictions_file(output_dir: Path, name: str) -> Path:
    """Return where the predictions of a test set are kept."""
    return output_dir / "predictions" / f"{name}.jsonl"


def write_predictions(
    output_dir: Path,
    name: str,
    records: Sequence[Mapping],
    replies: Sequence[str],
    answer: Callable[[str], str] = str.strip,
) -> None:
    """Write the predictions of one test set, whole or not at all.

    Each record becomes a line with its "prediction", the answer that is scored, and where the model wrote more, such
    as a thought, with the whole reply as "raw_prediction".

    Args:
        output_dir: Folder of the task.
        name: Of the test set.
        records: Its records.
        replies: What the model wrote, in the order of the records.
        answer: From a reply to the answer in it.
    """
    rows = []
    for record, reply in zip(records, replies, strict=True):
        prediction = answer(reply)
        raw = {} if prediction == reply.strip() else {"raw_prediction": reply}
        rows.append({**without_prediction(record), "prediction": prediction, **raw})
    write_json_lines(predictions_file(output_dir, name), rows)


def without_prediction(row: Mapping) -> dict:
    """Return the test record of a line that `write_predictions` wrote."""
    return {key: value for key, value in row.items() if key not in ("prediction", "raw_prediction")}


def write_scores(output_dir: Path, test_sets: Sequence[Mapping[str, Any]], official_rules: OfficialRules) -> None:
    """Write `scores.json` from the predictions of all test sets.

    Args:
        output_dir: Folder of the task.
        test_sets: Mappings with `name`, `scorer` and, optionally, `official`.
        official_rules: Finds the official rules.
    """
    scores = {}
    for test_set in test_sets:
        rows = read_json_lines(predictions_file(output_dir, test_set["name"]))
        official = test_set.get("official")
        scores[test_set["name"]] = score_rows(test_set["scorer"], rows, official and official_rules(official))
    write_json(output_dir / SCORES_FILE, scores)


def score_rows(
    scorer: Spec, rows: Sequence[Mapping], official: Callable[[Sequence[Mapping]], float] | None = None
) -> dict[str, Any]:
    """Score the answers to a test set.

    Args:
        scorer: As a recipe writes it.
        rows: Test records, each with its "prediction".
        official: A rule that scores the answers as well, or None.

    Returns:
        "accuracy", "format", "count", "stderr" and "lenient" as in `SetScore`, the first two None with `NO_SCORER`;
        "parts" where the accuracy is a mean of several numbers; and "official", the accuracy by the official rule in
        percent, where it is asked for and the records hold what it needs.
    """
    scores = asdict(score_predictions(scorer, [row["prediction"] for row in rows], rows))
    if scores["parts"] is None:
        del scores["parts"]
    if official is not None and scorer != NO_SCORER:
        try:
            scores["official"] = official(rows)
        except ValueError as error:
            logger.warning("No official accuracy beside the scorer %r: %s", spec_text(scorer), _whole(error))
    return scores


def _whole(error: ValueError) -> str:
    """Make a sentence of what a rule says of a record; what it says of the machine is one."""
    said = str(error)
    return said if said.endswith(".") else f"a test record {said}. Prepare the data with the benchmark's own command."


def rows_with_golds(rows: Sequence[dict], scorer: Spec) -> list[dict]:
    """Return predictions with the gold answer where a scorer reads it, whichever scorer they were written for."""
    own = scorer_of(scorer)
    fields = {other.gold for other in scorers().values()}
    return [
        row
        if {own.gold, *own.alternatives} & row.keys() or not fields & row.keys()
        else {**row, own.gold: next(row[field] for field in fields if field in row)}
        for row in rows
    ]
