"""All scorers by name, and a scorer as a recipe writes it: a name, or a mapping of its name and its options.

A package of its own adds one by an entry point of the group ``sefe_plugin.scorers``::

    [project.entry-points."sefe_plugin.scorers"]
    my_score = "my_package:scorer"

where ``scorer`` is an instance of `Scorer`, such as ``RecordScorer(rule, "a text that is not empty")``.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from sefe_plugin.answers.styles import BRIEF, MULTIPLE_CHOICE, SHORT_ANSWER, YES_NO
from sefe_plugin.answers.texts import BOX
from sefe_plugin.evaluation.scorers.base import NoScorer, RecordScorer, Scorer
from sefe_plugin.evaluation.scorers.corpus import CaptionScorer
from sefe_plugin.evaluation.scorers.golds import SEVERAL
from sefe_plugin.evaluation.scorers.judge import JudgeScorer
from sefe_plugin.evaluation.scorers.lenient import (
    read_class_name,
    read_explanation,
    read_multiple_choice,
    read_phrase,
    read_text_vqa,
    read_yes_no,
)
from sefe_plugin.evaluation.scorers.mixed import read_mixed, score_mixed
from sefe_plugin.evaluation.scorers.numeric import (
    BoxOptions,
    NumberOptions,
    read_box,
    read_number,
    score_box,
    score_number,
)
from sefe_plugin.evaluation.scorers.rules import (
    score_class_name,
    score_explanation,
    score_multiple_choice,
    score_short_answer,
    score_text_vqa,
    score_yes_no,
)
from sefe_plugin.evaluation.scorers.words import (
    AnlsOptions,
    ExactMatchOptions,
    RegexScorer,
    read_exact_match,
    score_anls,
    score_contains,
    score_exact_match,
    score_f1,
    score_names,
    score_rouge_l,
)
from sefe_plugin.options import option_errors, own_options
from sefe_plugin.words import near, shown


GROUP = "sefe_plugin.scorers"

#: Name of the scorer that scores nothing: a test set is answered, and that is all.
NO_SCORER = "none"

#: A scorer as a recipe writes it.
Spec = str | Mapping[str, Any]

_NAME = "name"
_WORDS = "a text that is not empty"
_SEVERAL = (SEVERAL,)

#: The plugin's own scorers, each with its default options.
SCORERS: dict[str, Scorer] = {
    "multiple_choice": RecordScorer(
        score_multiple_choice,
        "the letter of one of its `num_choices` options",
        style=MULTIPLE_CHOICE,
        lenient=read_multiple_choice,
    ),
    # letters of options can be scored by it too
    "short_answer": RecordScorer(score_short_answer, _WORDS, lenient=read_phrase),
    "text_vqa": RecordScorer(score_text_vqa, _WORDS, alternatives=_SEVERAL, style=SHORT_ANSWER, lenient=read_text_vqa),
    "class_name": RecordScorer(score_class_name, _WORDS, style=SHORT_ANSWER, lenient=read_class_name),
    "box": RecordScorer(
        score_box,
        "two corners, [x1, y1, x2, y2] with x1 < x2 and y1 < y2 (no width and height)",
        gold="answer_bbox",
        style=BOX,
        lenient=read_box,
        options=BoxOptions(),
    ),
    "yes_no": RecordScorer(score_yes_no, "yes or no", style=YES_NO, lenient=read_yes_no),
    "explanation": RecordScorer(
        score_explanation, "at least six words, its `key` among them", style=BRIEF, lenient=read_explanation
    ),
    "number": RecordScorer(
        score_number,
        "a number, with a unit or without",
        alternatives=_SEVERAL,
        style=SHORT_ANSWER,
        lenient=read_number,
        options=NumberOptions(),
    ),
    "names": RecordScorer(score_names, "names with commas between them", alternatives=_SEVERAL),
    "mixed": RecordScorer(score_mixed, _WORDS, alternatives=_SEVERAL, lenient=read_mixed),
    "exact_match": RecordScorer(
        score_exact_match,
        _WORDS,
        alternatives=_SEVERAL,
        lenient=read_exact_match,
        options=ExactMatchOptions(),
        tells_format=False,
    ),
    "contains": RecordScorer(score_contains, _WORDS, alternatives=_SEVERAL, tells_format=False),
    "regex": RegexScorer(),
    "f1": RecordScorer(score_f1, "a text with words", alternatives=_SEVERAL, tells_format=False),
    "anls": RecordScorer(score_anls, _WORDS, alternatives=_SEVERAL, options=AnlsOptions(), tells_format=False),
    "rouge_l": RecordScorer(score_rouge_l, "a text with words", alternatives=_SEVERAL, tells_format=False),
    "caption": CaptionScorer(),
    "judge": JudgeScorer(),
    NO_SCORER: NoScorer(),
}


def scorers() -> dict[str, Scorer]:
    """Return all scorers that can be used, by name: the plugin's own, then those of installed packages."""
    return _found().usable


def unusable_scorers() -> dict[str, str]:
    """Return why scorers of other packages cannot be used, by name, one sentence each.

    They are an error only where a recipe names one.
    """
    return _found().unusable


def known_scorers() -> str:
    """Return the names of all scorers, in words."""
    names = ", ".join(name for name in scorers() if name != NO_SCORER)
    return f"one of {names}, or {NO_SCORER} for answers without scores"


def spec_faults(spec: Any) -> list[str]:
    """List what is wrong with a scorer as a recipe writes it, all at once, one sentence each.

    Example:
        >>> spec_faults("number"), spec_faults({"name": "number", "tolerance": 0.05})
        ([], [])
        >>> spec_faults({"name": "number", "tolerance": 5})
        ['`scorer: number`: `tolerance` must be a share in [0, 1]; got 5.']
    """
    given = {_NAME: spec} if isinstance(spec, str) else spec
    if not isinstance(given, Mapping) or not isinstance(given.get(_NAME), str):
        return [
            f"`scorer` must be {known_scorers()}; or a mapping of its `name` and its options, such as {{name: number, "
            f"tolerance: 0.05}}; got {shown(spec)}."
        ]
    name = given[_NAME]
    if name in unusable_scorers():
        return [f"`scorer: {name}`: {unusable_scorers()[name]}"]
    if name not in scorers():
        return [f"`scorer` must be {known_scorers()}; got {shown(name)}.{near(name, scorers())}"]
    own = scorers()[name]
    declared, values = own_options(type(own.options)), {key: value for key, value in given.items() if key != _NAME}
    if not all(isinstance(key, str) for key in values):
        return [f"`scorer: {name}`: the names of its options must be texts; got {shown(dict(values))}."]
    has = f"has the options {', '.join(declared)}" if declared else "has no options"
    faults = [f"`{key}` is no option of it; it {has}.{near(key, declared)}" for key in values if key not in declared]
    wrong = option_errors(type(own.options), values)
    faults += wrong.values()
    if not faults:
        faults = own.with_options(**values).option_faults()
    return [f"`scorer: {name}`: {fault}" for fault in faults]


def scorer_of(spec: Spec) -> Scorer:
    """Return the scorer that a recipe names, with the options that it has there.

    Raises:
        ValueError: As `spec_faults` says.

    Example:
        >>> scorer_of({"name": "number", "tolerance": 0.05}).options.tolerance
        0.05
    """
    if faults := spec_faults(spec):
        raise ValueError(" ".join(faults))
    if isinstance(spec, str):
        return scorers()[spec]
    return scorers()[spec[_NAME]].with_options(**{key: value for key, value in spec.items() if key != _NAME})


def plain_spec(spec: Any) -> Any:
    """Return a scorer in its shortest form: a mapping without options as the name alone.

    Example:
        >>> plain_spec({"name": "number"}), plain_spec({"name": "number", "tolerance": 0.05})
        ('number', {'name': 'number', 'tolerance': 0.05})
    """
    return spec[_NAME] if isinstance(spec, Mapping) and [*spec] == [_NAME] else spec


def settled_spec(spec: Spec) -> Spec:
    """Return a scorer as a run records it: the same in whatever folder a later command is given.

    Example:
        >>> settled_spec("number")
        'number'
    """
    settled = scorer_of(spec).settled_options()
    return {**spec, **settled} if isinstance(spec, Mapping) and settled else spec


def spec_text(spec: Spec) -> str:
    """Write a scorer in one line, as a recipe and a command may have it.

    Example:
        >>> spec_text("number"), spec_text({"name": "number", "tolerance": 0.05})
        ('number', '{name: number, tolerance: 0.05}')
    """
    if isinstance(spec, str):
        return spec
    import yaml

    return yaml.safe_dump(
        dict(spec), default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True
    ).strip()


def read_spec(text: str) -> Any:
    """Read a scorer as a command has it (`spec_text`); a text that is no mapping is a name.

    Raises:
        ValueError: Where it begins as a mapping and is none.

    Example:
        >>> read_spec("{name: number, tolerance: 0.05}")
        {'name': 'number', 'tolerance': 0.05}
    """
    if not text.lstrip().startswith("{"):
        return text
    import yaml

    try:
        return plain_spec(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ValueError(
            f"a scorer with options is written as '{{name: number, tolerance: 0.05}}'; got {shown(text)}"
        ) from error


class _Found(NamedTuple):
    usable: dict[str, Scorer]
    unusable: dict[str, str]


@cache
def _found() -> _Found:
    from importlib.metadata import entry_points

    found = _Found(dict(SCORERS), {})
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if reason := _take(point, found.usable):
            package = point.dist.name if point.dist else point.value
            found.unusable[point.name] = f"the scorer {point.name!r} of the package {package} {reason}"
    return found


def _take(point, usable: dict[str, Scorer]) -> str | None:
    """Add a package's scorer to the usable ones, or return why it cannot be."""
    if point.name in usable:
        return "has the name of another. Uninstall one of them."
    try:
        scorer = point.load()
    except Exception as error:  # whatever another package does when it is imported
        return f"cannot be loaded: {error!r}. Mend or uninstall the package."
    if not isinstance(scorer, Scorer):
        return f"must be an instance of sefe_plugin.evaluation.scorers.Scorer; got {scorer!r}."
    usable[point.name] = scorer
    return None
