"""Whether what the complete tasks of a run have left is whole, told before the next one starts."""

from functools import partial

from sefe_plugin.carry import CARRIES
from sefe_plugin.carry.adapter_files import check_carried
from sefe_plugin.data.added import KEPT_FOLDER, check_kept
from sefe_plugin.evaluation.results import SCORES_FILE
from sefe_plugin.methods import methods
from sefe_plugin.recipe.load import Recipe
from sefe_plugin.run.costs import read_costs
from sefe_plugin.run.folder import RunFolder
from sefe_plugin.run.job import task_arguments
from sefe_plugin.run.records import RunFolderError
from sefe_plugin.run.stages import BASE, BASE_NAME
from sefe_plugin.run.steps import steps_of


def require_whole(recipe: Recipe) -> None:
    """Check the files that a continued run reads, so that nothing damaged is found in the middle of a training.

    These are the manifest, the steps of all tasks, the scores of the complete ones and of the base, and what the tasks
    have left for the next one: the model or adapter that it starts from, the files of the method, with `replay_ratio`
    their samples, and what they took, by which steps are counted on.

    Raises:
        RunFolderError: With all files that are at fault.
    """
    folder = RunFolder(recipe.output_dir.absolute())
    manifest = folder.read_manifest()
    if manifest is None:
        return
    places = [folder.task_folder(index, task.name) for index, task in enumerate(recipe.tasks)]
    complete = manifest["complete"][: len(places)]
    checks = [partial(steps_of, place) for place in places]
    # scores that are absent are made anew from the predictions (`rescoring`)
    scored = [index for index in range(len(complete)) if (places[index] / SCORES_FILE).exists()]
    checks += [partial(folder.read_scores, index, complete[index]["name"]) for index in scored]
    checks.append(partial(steps_of, folder.base_folder))
    if (folder.base_folder / SCORES_FILE).exists():
        checks.append(partial(folder.read_scores, BASE, BASE_NAME))
    if 0 < len(complete) < len(places):
        method, carry = methods()[recipe.arguments["cl_method"]], CARRIES[recipe.arguments["carry"]]
        done = places[: len(complete)]
        checks += [partial(read_costs, place) for place in done]
        if carry.result is not None:
            checks.append(partial(check_carried, (done[-1] / carry.result).parent, method.peft_type))
        if method.file is not None:
            for index, place in enumerate(done):
                keys = task_arguments(recipe.arguments, recipe.tasks, index, folder)
                checks.append(partial(method.check_file, place, keys))
        if recipe.arguments.get("replay_ratio"):
            checks += [partial(check_kept, place / KEPT_FOLDER) for place in done]
    errors = []
    for check in checks:
        try:
            check()
        except (OSError, ValueError) as error:
            errors.append(f"  - {error}")
    if errors:
        raise RunFolderError("\n".join([f"{folder.path} cannot be continued: it holds damaged files.", *errors]))
