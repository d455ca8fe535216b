"""All scores of a run, stage by stage, as a report needs them."""

from collections.abc import Mapping, Sequence

from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.stages import BASE, has_base_row, scored_in, stage_name


class Scores:
    """The scores of a run so far; they are read once.

    Args:
        folder: The run.
        tasks: The names of its tasks, in training order.

    Raises:
        RunFolderError: If the scores of a complete task are absent or damaged.
    """

    def __init__(self, folder: RunFolder, tasks: Sequence[str]):
        self._folder, self._tasks = folder, tasks
        manifest = folder.read_manifest() or {"recipe": {}, "complete": []}
        self._recipe, self._complete = manifest["recipe"], len(manifest["complete"])
        self._rows = [self._row(index) for index in range(len(tasks))]
        self._base = self._row(BASE)

    def matrices(self) -> tuple[list[list], list[list], list[list] | None]:
        """Return the accuracy, format and official accuracy matrices.

        Returns:
            Matrices in percent; entry [i][j] is on task j after task i, None where it was not scored. The last is None
            where no task is scored by an official rule.
        """
        accuracy, formatted, official = (self._cells(key) for key in ("accuracy", "format", "official"))
        has_official = any(value is not None for row in official for value in row)
        return accuracy, formatted, official if has_official else None

    def base_rows(self) -> tuple[dict[str, list] | None, dict[str, list] | None]:
        """Return what a report says of the untouched base and of retention sets, with the names of its keys.

        Returns:
            "zero_shot" and "retention"; None where the run has no such row or test sets.
        """
        if not has_base_row(self._recipe):
            return None, None
        sets = [one["name"] for one in self._recipe.get("retention_sets") or ()]
        kinds = ["accuracy", "format", *["stderr"] * any("stderr" in scores for scores in self._base.values())]
        kinds += ["lenient"] * any(scores.get("lenient") is not None for scores in self._base.values())
        zero_shot = {key: _cells([self._base], self._tasks, key)[0] for key in kinds}
        matrices = {f"{key}_matrix": _cells([self._base, *self._rows], sets, key) for key in kinds}
        return zero_shot if self._recipe.get("score_unseen") else None, {"sets": sets, **matrices} if sets else None

    def lenient(self) -> list[list] | None:
        """Return the accuracies as a reader counts them, as the matrices of `matrices`; None where there are none."""
        counted = self._cells("lenient")
        return counted if any(value is not None for row in counted for value in row) else None

    def certainty(self) -> tuple[list[list] | None, dict[str, int]]:
        """Return how sure the accuracies are.

        Returns:
            The standard errors, as the matrices of `matrices`, None where an earlier version has scored; and the
            number of answers to each test set.
        """
        errors = self._cells("stderr")
        counts = {
            name: scores["count"]
            for row in (self._base, *self._rows)
            for name, scores in row.items()
            if "count" in scores
        }
        known = any(value is not None for row in errors for value in row)
        return errors if known else None, counts

    def parts(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return what accuracies are the means of, as those of captions are: of BLEU, ROUGE-L and others.

        Returns:
            Task -> "learned", just after it was learned, and "end", after the last task that is complete -> part ->
            percent. Tasks whose accuracy is one number alone are not there.
        """
        last = next((row for row in reversed(self._rows) if row), {})
        stages = {
            task: {"learned": row.get(task, {}), "end": last.get(task, {})}
            for task, row in zip(self._tasks, self._rows, strict=True)
        }
        return {
            task: {stage: scores["parts"] for stage, scores in of_task.items()}
            for task, of_task in stages.items()
            if all("parts" in scores for scores in of_task.values())
        }

    def _cells(self, key: str) -> list[list]:
        return _cells(self._rows, self._tasks, key)

    def _row(self, index: int) -> dict[str, dict[str, float]]:
        """Read the scores of a stage by test set; none where it is not complete, or the recipe has it no more."""
        if index >= self._complete or (index == BASE and not self._folder.has_scored_base()):
            return {}
        name = stage_name(self._recipe, index)
        scores = self._folder.read_scores(index, name)
        known = [one["name"] for one in scored_in(self._folder.task_folder(index, name), self._recipe, index)]
        return {name: scores[name] for name in known if name in scores}


def _cells(rows: Sequence[Mapping[str, Mapping[str, float]]], names: Sequence[str], key: str) -> list[list]:
    """Return one value of the scores of each stage and test set; None where it was not scored."""
    return [[scores.get(name, {}).get(key) for name in names] for scores in rows]
