"""The test sets of a recipe, tried before anything starts: asked, read and scored by the code that scores them."""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from llamafactory.extras import logging
from llamafactory.model.loader import load_config
from llamafactory.model.model_utils.rope import configure_rope
from PIL import Image

from sefe_plugin.benchmarks import official_rule
from sefe_plugin.data.test_sets import listed_faults, read_test_set
from sefe_plugin.evaluation.results import write_predictions, write_scores
from sefe_plugin.evaluation.scorers import NO_SCORER, Scorer, scorer_of, spec_text
from sefe_plugin.hosts.llamafactory.many_records import sampling_note, spread, tried
from sefe_plugin.hosts.llamafactory.media import media_files, missing_fault
from sefe_plugin.hosts.llamafactory.questions import QuestionReader
from sefe_plugin.methods import methods


logger = logging.get_logger()  # the host shows what its own logger says


def test_set_trial_errors(
    test_sets: Sequence[Mapping[str, str]],
    model_args,
    data_args,
    finetuning_args,
    generating_args,
    show: Callable[[str, Iterable, int], Iterable] = lambda name, steps, count: steps,
    note: Callable[[str], None] = lambda sentence: None,
    opened: Callable[[Iterable[str]], None] = lambda files: None,
    loaded: Mapping[str, Any] | None = None,
) -> list[str]:
    """List what would keep test sets from being answered and scored, or make every answer to a record wrong.

    Every question is made by the host, with its pictures, and not cut; of more than `trial_samples` records that many,
    evenly spread, in `preprocessing_num_workers` processes. Every gold answer goes through the host's
    template and back, as if the model had written it, and through the scorer. Results are written to a folder that is
    then removed.

    Args:
        test_sets: mappings with `name`, `dataset` (the host's name), `scorer` and, optionally, `official` and
            `max_samples`.
        model_args: the host's arguments of the model; its weights are not loaded.
        data_args: the host's arguments of the data.
        finetuning_args: the host's arguments of the method, with the plugin's.
        generating_args: the host's arguments of the generation.
        show: makes a progress bar of a dataset's name, an iterator and the number of its steps.
        note: given one sentence for each test set of which not all records were tried, or to some of whose records
            no answer can be right because it would be cut.
        opened: given the files that the records of a test set name.
        loaded: the host's tokenizer and processor, if they are loaded for questions already.

    Returns:
        One sentence for each test set at fault.
    """
    reader = QuestionReader(model_args, data_args, loaded=loaded)
    if way := reader.way_of_asking():
        logger.info_rank0(way)
    if not set(reader.reply("?")) & set(reader.stop_token_ids):
        return [
            f"`template: {data_args.template}` teaches no model where an answer ends, so every answer would run on to "
            "`max_new_tokens` and be wrong. Choose the template of the model."
        ]
    longest, folder = most_tokens(model_args, finetuning_args), Path(data_args.media_dir).resolve()
    trial = _Trial(reader, longest, generating_args.max_new_tokens, folder)
    errors = []
    for test_set in test_sets:
        if error := trial.error(test_set, data_args, show, note, opened):
            errors.append(f"`test_dataset`: {error}")
    return errors


def most_tokens(model_args, finetuning_args) -> int | None:
    """Return how many tokens question and answer may have together; None where nothing limits them."""
    config = load_config(model_args)
    configure_rope(config, model_args)
    own = getattr(config.get_text_config(), "max_position_embeddings", None)
    limits = [own]
    if finetuning_args.scoring_backend == "vllm":
        limits.append((model_args.vllm_config or {}).get("max_model_len"))
    keys = vars(finetuning_args)
    added = methods()[keys["cl_method"]].added_tokens(keys) if keys["cl_method"] else 0
    return min((int(limit) - added for limit in limits if limit and limit > 0), default=None)


class _Tried(NamedTuple):
    """What the trial of a record found.

    Attributes:
        reply: The gold answer as the model would write it.
        fault: What is wrong with the record, or nothing.
        cut: Tokens of the gold answer, where that is more than an answer may have; else 0.
        media: The files that it names.
    """

    reply: str = ""
    fault: str = ""
    cut: int = 0
    media: Sequence[str] = ()


class _Trial:
    def __init__(self, reader: QuestionReader, most_tokens: int | None, max_new_tokens: int, media_folder: Path):
        self._reader, self._most_tokens, self._max_new_tokens = reader, most_tokens, max_new_tokens
        self._collate, self._media_folder = reader.collate(), media_folder

    def error(
        self, test_set: Mapping[str, str], data_args, show: Callable, note: Callable, opened: Callable
    ) -> str | None:
        """Say what is wrong with a test set."""
        dataset, scorer = test_set["dataset"], scorer_of(test_set["scorer"])
        try:
            records = read_test_set(dataset, data_args.dataset_dir, scorer, test_set.get("max_samples"))
        except (OSError, ValueError) as error:
            return f"{dataset!r} cannot be read: {error}."
        numbers = spread(len(records), data_args.trial_samples)
        if len(numbers) < len(records):
            note(f"`test_dataset`: {sampling_note(dataset, len(numbers), len(records))}")
        if not data_args.trial_samples:
            return None
        results = tried(partial(self._try, dataset, scorer), records, numbers, data_args.preprocessing_num_workers)
        found = list(show(dataset, results, len(numbers)))
        opened(file for one in found for file in one.media)
        placed = {number + 1: one for number, one in zip(numbers, found, strict=True)}
        faults = {number: one.fault for number, one in placed.items() if one.fault}
        if faults:
            return f"{len(faults)} of {len(numbers)} records of {dataset!r} cannot be used: {listed_faults(faults)}."
        if cut := {number: one.cut for number, one in placed.items() if one.cut}:
            number, tokens = next(iter(cut.items()))
            said = (
                f"{len(cut)} of {len(numbers)} gold answers of {dataset!r} are longer than `max_new_tokens: "
                f"{self._max_new_tokens}`, where every answer is cut; that of record {number} takes {tokens} tokens "
                "with what the template adds. Set a larger one"
            )
            if len(cut) == len(numbers) and test_set["scorer"] != NO_SCORER:
                return f"{said}: no answer could be right."
            note(f"`test_dataset`: {said}, or answers to these records stay incomplete.")
        if scorer.asks:
            return None  # what the server says of an answer is known when it is asked
        asked, replies = [records[number] for number in numbers], [one.reply for one in found]
        with tempfile.TemporaryDirectory() as folder:
            try:
                write_predictions(Path(folder), test_set["name"], asked, replies, self._reader.replies.answer)
                write_scores(Path(folder), [test_set], official_rule)
            except (TypeError, ValueError) as error:
                return f"the answers to {dataset!r} cannot be scored by {spec_text(test_set['scorer'])!r}: {error}."
        return None

    def _try(self, dataset: str, scorer: Scorer, record: Mapping) -> _Tried:
        try:
            found = self._reply(dataset, record, scorer)
        except ValueError as error:
            return _Tried(fault=str(error))
        return found._replace(media=media_files(self._reader.row(dataset, record)))

    def _reply(self, dataset: str, record: Mapping, scorer: Scorer) -> _Tried:
        """Return the gold answer to a record as the model would write it; silence where it needs none and has none.

        Raises:
            ValueError: if the record cannot be asked or no answer to it would be right.
        """
        scorer.check(record)
        length = len(self._question(dataset, record))
        if self._most_tokens is not None and length + self._max_new_tokens > self._most_tokens:
            raise ValueError(
                f"its question has {length} tokens, and with `max_new_tokens: {self._max_new_tokens}` that is more "
                f"than the {self._most_tokens} that it may have. Shorten it, or set a smaller `max_new_tokens`"
            )
        gold = scorer.best_answer(record)
        if not gold:
            return _Tried()
        tokens = self._reader.reply(gold)
        end = next(place for place, token in enumerate(tokens) if token in self._reader.stop_token_ids)
        reply = self._reader.replies.decode(tokens[:end])
        if end > self._max_new_tokens:
            return _Tried(reply, cut=end)
        if not scorer.needs_gold or scorer.asks:
            return _Tried(reply)
        answer = self._reader.replies.answer(reply)
        if scorer.score([answer], [record]).accuracy < scorer.score([gold], [record]).accuracy:
            raise ValueError(
                f"the template and the tokenizer make {answer!r} of its gold answer {gold!r}, which is wrong. Write "
                "it without thoughts, special tokens and signs that the tokenizer does not know"
            )
        return _Tried(reply)

    def _question(self, dataset: str, record: Mapping) -> list[int]:
        try:
            question = self._reader.question(dataset, record)
            self._collate([question])
        except ValueError as error:
            raise ValueError(self._broken_picture(dataset, record) or f"{error!s:.300}") from error
        except Exception as error:  # the host's code and decoders of pictures raise errors of many kinds
            reason = f"LLaMA-Factory cannot read it ({type(error).__name__}: {error!s:.300})"
            raise ValueError(self._broken_picture(dataset, record) or reason) from error
        return question["input_ids"]

    def _broken_picture(self, dataset: str, record: Mapping) -> str | None:
        """Say which picture of a record cannot be read."""
        try:
            pictures = self._reader.row(dataset, record)["_images"] or ()
        except Exception:  # the record itself is at fault
            return None
        for picture in pictures:
            if isinstance(picture, str):
                if fault := missing_fault(picture, self._media_folder):
                    return fault
                try:
                    with Image.open(picture) as image:
                        image.load()
                except Exception as error:  # as above
                    return (
                        f"its picture {picture} cannot be read ({type(error).__name__}: {error}). Mend the file, or "
                        "take the record out"
                    )
        return None
