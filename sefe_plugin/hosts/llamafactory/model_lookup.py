"""What LLaMA-Factory knows of a model and of data before there is a recipe: the template, and whether ASD can act."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llamafactory.data.converter import get_dataset_converter
from llamafactory.data.mm_plugin import BasePlugin
from llamafactory.data.parser import get_dataset_list
from llamafactory.data.template import TEMPLATES, Template
from llamafactory.extras.constants import DEFAULT_TEMPLATE, SUPPORTED_MODELS
from llamafactory.hparams import DataArguments, ModelArguments
from llamafactory.model import load_tokenizer

from sefe_plugin.data.layout import SUFFIXES
from sefe_plugin.data.records import RecordFile
from sefe_plugin.hosts.llamafactory.dataset import rewrite, scored_by


logger = logging.getLogger(__name__)

#: A talk that shows how a model's own template writes turns.
_QUESTION, _ANSWER, _NEXT = "What is it?", "A cat.", "And now?"


def template_names() -> tuple[str, ...]:
    """Return the names of the host's templates."""
    return tuple(TEMPLATES)


def templates_of(model: str) -> list[str]:
    """Return the templates that fit a model, the best first; none where the host and the model's files do not tell.

    The host's registry knows the models of the hub, and copies of them in folders of the same name. Of another model
    the tokenizer is loaded, and its chat template compared with the host's: those that write the same talk fit.

    Args:
        model: A folder, or a name of the hub.
    """
    return _registered(model) or _alike(model)


def _registered(model: str) -> list[str]:
    """Look a model up in the host's registry."""
    last = Path(model).name.casefold()
    for same in (lambda name: name == model, lambda name: Path(name).name.casefold() == last):
        for title, places in SUPPORTED_MODELS.items():
            if title in DEFAULT_TEMPLATE and any(same(name) for name in (title, *places.values())):
                return [DEFAULT_TEMPLATE[title]]
    return []


def _alike(model: str) -> list[str]:
    """Compare the chat template of a model's own files with the host's templates."""
    try:
        loaded = load_tokenizer(ModelArguments(model_name_or_path=model))
    except (OSError, ValueError, ImportError):  # the last where a tokenizer needs a package that is not here
        return []
    tokenizer, processor = loaded["tokenizer"], loaded["processor"]
    talk = _own_talk(processor if getattr(processor, "chat_template", None) else tokenizer)
    if talk is None:
        return []
    fitting = [name for name, template in TEMPLATES.items() if talk.endswith(_turns(template, tokenizer))]
    start = tokenizer.bos_token or ""
    heads = {name: _head(TEMPLATES[name], tokenizer) for name in fitting}
    whole = [
        name
        for name, head in heads.items()
        if (head + _turns(TEMPLATES[name], tokenizer)).removeprefix(start) == talk.removeprefix(start)
    ]
    # templates of one family differ in what they do with pictures
    sees = processor is not None
    found = [name for name in whole or fitting if _takes_media(TEMPLATES[name]) == sees]
    return found or whole or list(fitting)


def _own_talk(owner) -> str | None:
    """Write a talk with a model's own chat template, by its tokenizer or its processor; None if it has none."""
    texts = {"user": (_QUESTION, _NEXT), "assistant": (_ANSWER,)}
    for wrap in (str, lambda text: [{"type": "text", "text": text}]):
        talk = [
            {"role": role, "content": wrap(texts[role][turn])}
            for role, turn in (("user", 0), ("assistant", 0), ("user", 1))
        ]
        try:
            written = owner.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a chat template is a program: it may stop at anything
            logger.debug("this chat template does not take such contents: %s", error)
            continue
        if _QUESTION in written and _NEXT in written:
            return written
    return None


def _turns(template: Template, tokenizer) -> str:
    """Write the talk with a template of the host, without what stands before the first turn."""
    slots = [
        *template.format_user.apply(content=_QUESTION, idx="0"),
        *template.format_assistant.apply(content=_ANSWER),
        *template.format_user.apply(content=_NEXT, idx="1"),
    ]
    return _written(slots, tokenizer)


def _head(template: Template, tokenizer) -> str:
    """Write what a template of the host puts before the first turn."""
    slots = template.format_prefix.apply()
    if template.default_system:
        slots = [*slots, *template.format_system.apply(content=template.default_system)]
    return _written(slots, tokenizer)


def _written(slots: Sequence[str | set[str] | dict[str, str]], tokenizer) -> str:
    """Put the parts together of which the host's templates make tokens."""
    signs = {"bos_token": tokenizer.bos_token or "", "eos_token": tokenizer.eos_token or ""}
    texts = []
    for slot in slots:
        if isinstance(slot, set):
            texts += [signs[sign] for sign in slot]
        else:
            texts.append(slot if isinstance(slot, str) else slot["token"])
    return "".join(texts)


def _takes_media(template: Template) -> bool:
    return type(template.mm_plugin) is not BasePlugin


def asd_fault(dataset: str, dataset_dir: str, scorer: str | None, ratio: float, seed: int) -> str | None:
    """Tell why ASD cannot rewrite a share of a dataset, as it would in its training.

    Args:
        dataset: Its name in dataset_info.json.
        dataset_dir: The folder of that file.
        scorer: The task's scorer; None where it has none.
        ratio: Share X in (0, 1].
        seed: Draws the samples.

    Returns:
        The reason; None if it can, or if the data is no local JSON file, which is seen only when its task starts.

    Raises:
        ValueError: If the records cannot be read.
    """
    rows = converted(dataset, dataset_dir)
    if rows is None:
        return None
    talks = {column: [row[column] for row in rows] for column in ("_prompt", "_response")}
    try:
        with scored_by([{"scorer": scorer}]):
            rewrite(talks, dataset, ratio, seed)
    except ValueError as error:
        return str(error)
    return None


def converted(dataset: str, dataset_dir: str) -> list[dict[str, Any]] | None:
    """Return the records of a dataset as the host converts them; None if the data is no local JSON file.

    Raises:
        ValueError: If the records cannot be read or converted.
    """
    (attributes,) = get_dataset_list([dataset], dataset_dir)
    file = Path(dataset_dir) / attributes.dataset_name
    if attributes.load_from != "file" or file.suffix not in SUFFIXES or not file.is_file():
        return None
    convert = get_dataset_converter(attributes.formatting, attributes, DataArguments(dataset_dir=dataset_dir))
    columns = dict.fromkeys(column for column in vars(attributes).values() if isinstance(column, str))
    records = RecordFile(file)
    try:
        return [convert({**columns, **records[index]}) for index in range(len(records))]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"LLaMA-Factory cannot convert the records of {file}: {error!r}.") from error
    finally:
        records.close()
