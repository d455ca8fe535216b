"""What a run keeps of its answers to a test set: the predictions, and what they are worth."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from sefe_plugin.evaluation.official import official_accuracy
from sefe_plugin.evaluation.scorers import score_predictions
from sefe_plugin.files import replacing, write_json


logger = logging.getLogger(__name__)


def write_results(
    output_dir: Path,
    test_sets: Sequence[Mapping[str, str]],
    records: Mapping[str, Sequence[Mapping]],
    predictions: Mapping[str, Sequence[str]],
) -> None:
    """Writes `predictions/<name>.jsonl`, one line per record with its prediction, and, last, `scores.json`.

    Args:
        output_dir: folder of the task.
        test_sets: mappings with `name`, `scorer` and, optionally, `official`.
        records: name -> test records.
        predictions: name -> answers, in the order of the records.
    """
    scores = {}
    for test_set in test_sets:
        name = test_set["name"]
        rows = [{**record, "prediction": text} for record, text in zip(records[name], predictions[name], strict=True)]
        with replacing(output_dir / "predictions" / f"{name}.jsonl") as temporary:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            temporary.write_text(text, encoding="utf-8")
        scores[name] = score_rows(test_set["scorer"], test_set.get("official"), rows)
    write_json(output_dir / "scores.json", scores)


def score_rows(scorer: str, official: str | None, rows: Sequence[Mapping]) -> dict[str, float | int]:
    """Scores the answers to a test set.

    Args:
        scorer: a name in `SCORERS`.
        official: a name in `OFFICIAL` whose rule scores the answers as well, or None.
        rows: test records, each with its "prediction".

    Returns:
        What `score_predictions` returns, and "official", the accuracy of the official script in percent, where it is
        asked for and the records hold what it needs.
    """
    scores = score_predictions(scorer, [row["prediction"] for row in rows], rows)
    if official is not None:
        try:
            scores["official"] = official_accuracy(official, rows)
        except ValueError as error:
            logger.warning(
                "No official accuracy of %s: a test record %s. Prepare the data with `sefe coin prepare`.",
                official,
                error,
            )
    return scores
