"""Training records, tried by the host's own converter, template and processor before anything is trained."""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from llamafactory.data import loader
from llamafactory.data.converter import DATASET_CONVERTERS, get_dataset_converter
from llamafactory.data.data_utils import split_dataset
from llamafactory.data.parser import DatasetAttr, get_dataset_list
from llamafactory.data.processor import SupervisedDatasetProcessor
from llamafactory.extras.constants import AUDIO_PLACEHOLDER, IGNORE_INDEX, IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER
from PIL import Image

from sefe_plugin.asd.dataset import ORIGIN
from sefe_plugin.data.text_faults import encoding_fault, record_fault
from sefe_plugin.hosts.llamafactory.dataset import rewrite
from sefe_plugin.hosts.llamafactory.many_records import sampling_note, spread, tried
from sefe_plugin.hosts.llamafactory.media import media_fault, media_files
from sefe_plugin.hosts.llamafactory.template_trial import template_fault
from sefe_plugin.words import near


#: Numbers of records that a message names.
_NAMED = 5
#: Characters of the host's own words that a message quotes.
_QUOTED = 300

_MEDIA = {"_images": IMAGE_PLACEHOLDER, "_videos": VIDEO_PLACEHOLDER, "_audios": AUDIO_PLACEHOLDER}

#: What to do with a list of parts in the place of a text.
_PARTS = "Write <image> where a picture belongs, and list the pictures in a column of their own"


class Found(NamedTuple):
    """What the trial of one dataset found.

    Attributes:
        errors: One sentence each.
        notes: What was not tried, one sentence each.
        media: The files that were opened.
    """

    errors: list[str]
    notes: list[str]
    media: list[str]


class Verdict(NamedTuple):
    """What the host makes of a record.

    Attributes:
        fault: What is wrong with it, the same words for all records with the same fault; "" where it is sound.
        detail: What of this record shows the fault.
        media: The files it names.
        doubt: What of it is seldom meant, although it is trained; the same words for all such records, "" for none.
    """

    fault: str
    detail: str = ""
    media: Sequence[str] = ()
    doubt: str = ""


def try_dataset(
    key: str, name: str, arguments: tuple, loaded: Mapping[str, Any], template, show: Callable, is_whole: bool = True
) -> Found:
    """Try the records of one dataset as the host will train on them.

    Args:
        key: The recipe key that names it.
        name: Its name in `dataset_info.json`.
        arguments: The host's arguments for model, data and training.
        loaded: The host's tokenizer and processor.
        template: The host's template.
        show: Makes a progress bar of an iterator and the number of its steps.
        is_whole: Whether it holds all records that will be trained, so that their number tells something.
    """
    _, data_args, training_args = arguments
    try:
        (attributes,) = get_dataset_list([name], data_args.dataset_dir)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return Found([f"`{key}`: the entry {name!r} of dataset_info.json cannot be read: {error}."], [], [])
    if errors := _entry_errors(attributes, data_args.dataset_dir):
        return Found([f"`{key}`: the entry {name!r} of dataset_info.json: {error}" for error in errors], [], [])
    if attributes.load_from != "file" or data_args.streaming:
        how = "streamed" if data_args.streaming else "no local file"
        return Found([], [f"`{key}`: {name!r} is {how}: LLaMA-Factory tries it only when its task starts."], [])
    if not data_args.trial_samples:
        return Found([], [f"`{key}`: {sampling_note(name, 0, 0)}"], [])
    file = Path(data_args.dataset_dir) / attributes.dataset_name
    try:
        records = _load(attributes, arguments)
    except Exception as error:
        return Found([f"`{key}`: {file} of {name!r} {_loading_fault(file, attributes, error)}."], [], [])
    where = f"{name!r} ({file})"
    if not len(records):
        return Found([f"`{key}`: {where} holds no records. Give it some."], [], [])
    trial = _Trial(attributes, data_args, loaded, template)
    numbers = spread(len(records), data_args.trial_samples)
    verdicts = list(show(tried(trial, records, numbers, data_args.preprocessing_num_workers), len(numbers)))
    errors = [f"`{key}`: {error}" for error in _summaries(where, numbers, verdicts)]
    notes = []
    if len(numbers) < len(records):
        notes.append(f"`{key}`: {sampling_note(name, len(numbers), len(records))}")
    notes += [f"`{key}`: {doubt}" for doubt in _doubts(where, numbers, verdicts)]
    if key == "dataset" and data_args.asd_ratio and not errors:
        errors = _asd_errors(name, records, attributes, data_args, training_args)
    if key == "dataset" and is_whole:
        count = min(limit for limit in (len(records), attributes.num_samples, data_args.max_samples) if limit)
        if data_args.asd_ratio and not round(data_args.asd_ratio * count):
            notes.append(f"`asd_ratio: {data_args.asd_ratio}` of the {count} records of {where} rewrites none.")
        if len(data_args.dataset) == 1 and (fault := _split_fault(count, data_args)):
            errors.append(f"`val_size: {data_args.val_size}` of the {count:,} records of {where}: {fault}.")
    return Found(errors, notes, sorted({file for verdict in verdicts for file in verdict.media}))


def _entry_errors(attributes: DatasetAttr, dataset_dir: str) -> list[str]:
    """List what the host would refuse of an entry of dataset_info.json, or pass over."""
    errors = []
    if attributes.formatting not in DATASET_CONVERTERS:
        errors.append(
            f"`formatting` must be one of {tuple(DATASET_CONVERTERS)}; got {attributes.formatting!r}."
            f"{near(attributes.formatting, DATASET_CONVERTERS)}"
        )
    if attributes.ranking:
        errors.append(
            "`ranking: true` marks preference data, on which LLaMA-Factory does no supervised fine-tuning. Name data "
            "with one answer for each question."
        )
    number = attributes.num_samples
    if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
        errors.append(f"`num_samples` must be a whole number of at least 1; got {number!r}.")
    return errors


@contextmanager
def _unaligned() -> Iterator[None]:
    """Let the host's loader return the records as it read them, while the context lasts."""
    host_align = loader.align_dataset
    loader.align_dataset = lambda dataset, *arguments: dataset
    try:
        yield
    finally:
        loader.align_dataset = host_align


def _load(attributes: DatasetAttr, arguments: tuple):
    """Read all records of a file that may be trained on, in their order, by the host's loader."""
    attributes = copy.copy(attributes)
    attributes.num_samples = None  # the host draws them at random
    with _unaligned():
        return loader._load_single_dataset(attributes, *arguments)


def _loading_fault(file: Path, attributes: DatasetAttr, error: Exception) -> str:
    """Tell why the host cannot read a file, as a clause whose subject is the file."""
    if file.suffix in (".json", ".jsonl") and file.is_file():
        if fault := encoding_fault(file):
            return fault
        if fault := record_fault(file):
            parts = fault.startswith(f"`{attributes.messages}[].{attributes.content_tag}` ")
            return f"cannot be read by LLaMA-Factory: {fault}{f'. {_PARTS}' if parts else ''}"
    while error.__cause__ is not None:  # the reader's own words lie below those of its library
        error = error.__cause__
    return f"cannot be read by LLaMA-Factory: {_quote(error)}"


class _Trial:
    """Takes one record through all steps of the host up to the model.

    Args:
        attributes: The host's reading of the dataset's entry.
        data_args: The host's arguments for the data.
        loaded: The host's tokenizer and processor.
        template: The host's template.
    """

    def __init__(self, attributes: DatasetAttr, data_args, loaded: Mapping[str, Any], template):
        self._attributes, self._data_args = attributes, data_args
        self._tokenizer, self._processor = loaded["tokenizer"], loaded["processor"]
        self._folder = Path(data_args.media_dir).resolve()
        self._template = template = copy.copy(template)  # the host keeps one for all its users
        template.mm_plugin = self._plugin = copy.copy(template.mm_plugin)
        self._plugin._get_mm_inputs = _LastResult(self._plugin._get_mm_inputs)
        self._convert = get_dataset_converter(attributes.formatting, attributes, data_args)
        self._encoder = loader._get_dataset_processor(data_args, "sft", template, **loaded)
        self._whole = SupervisedDatasetProcessor(
            template=template, **loaded, data_args=_with(data_args, cutoff_len=1 << 40)
        )

    def __call__(self, record: dict[str, Any]) -> Verdict:
        """Return what the host makes of a record."""
        try:
            row = self._convert(record)
        except Exception as error:
            return self._unreadable(record, error)
        try:
            media = media_files(row)
            self._plugin._validate_input(self._processor, *(row[column] or [] for column in _MEDIA))
            if fault := media_fault(row, self._folder, self._data_args.media_outside):
                return Verdict("LLaMA-Factory cannot use a file that it names", fault)
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                encoded = self._encoder.preprocess_dataset({key: [value] for key, value in row.items()})
                if not encoded.get("input_ids"):
                    return self._dropped(record, row)
                self._open_media(row, encoded)
            return self._mangled(row, encoded) or Verdict("", media=media, doubt=self._doubt(row, encoded))
        except Exception as error:
            return self._refused(row, error)

    def _open_media(self, row: dict[str, Any], encoded: Mapping[str, Any]) -> None:
        """Make of the files what the host's collator makes of them; only some plugins do so before it."""
        files = [row[column] or [] for column in _MEDIA]
        if any(files):
            lengths = [[len(part)] for part in files]
            self._plugin.get_mm_inputs(*files, *lengths, encoded["input_ids"], self._processor)

    def _unreadable(self, record: dict[str, Any], error: Exception) -> Verdict:
        """Explain why the converter stops at a record."""
        attributes = self._attributes
        if isinstance(error, KeyError) and error.args and error.args[0] not in record:
            column = error.args[0]
            if part := next((key for key in _COLUMNS if vars(attributes)[key] == column), None):
                return Verdict(
                    f"it has no column {column!r}, which LLaMA-Factory reads as `{part}`",
                    f"its columns are {', '.join(record)}. Name its columns under `columns` in dataset_info.json; "
                    f"`{part}: null` says that there is none{near(column, record)}",
                )
        if attributes.formatting != "alpaca":
            messages = record.get(attributes.messages)
            if not isinstance(messages, list):
                return Verdict(
                    f"`{attributes.messages}` must be a list of messages", f"got {messages!r}. Mend it, or take it out"
                )
            tags = [attributes.role_tag, attributes.content_tag]
            odd = [m for m in messages if not isinstance(m, dict) or any(tag not in m for tag in tags)]
            if odd:
                shape = "{" + ", ".join(f"{tag!r}: ..." for tag in tags) + "}"
                return Verdict(
                    f"each message must be {shape}",
                    f"got {_excerpt(odd[0])}. Mend it, or name its keys under `tags` in dataset_info.json",
                )
        return Verdict("LLaMA-Factory cannot convert it", f"{_quote(error)}. Mend it, or take it out")

    def _dropped(self, record: dict[str, Any], row: dict[str, Any]) -> Verdict:
        """Explain why the host would silently pass over a record."""
        attributes = self._attributes
        if attributes.formatting == "alpaca" and not row["_response"]:
            value = record.get(attributes.response)
            return Verdict(
                f"its answer (`{attributes.response}`) must be text; LLaMA-Factory would silently leave it out",
                f"got {value!r}. Write it as text",
            )
        if attributes.formatting != "alpaca" and not row["_response"]:
            roles = [message.get(attributes.role_tag) for message in record[attributes.messages]]
            tags = {tag: vars(attributes)[tag] for tag in ("user_tag", "assistant_tag", "system_tag")}
            return Verdict(
                f"its roles must be {tags['user_tag']!r} and {tags['assistant_tag']!r} in turn, from the first to the "
                "second; LLaMA-Factory would silently leave it out",
                f"got {_excerpt(roles)}. Mend it, or set `tags` in dataset_info.json, where "
                + ", ".join(f"{tag} is now {name!r}" for tag, name in tags.items()),
            )
        return Verdict(
            "LLaMA-Factory would silently leave it out",
            f"{len(row['_prompt'])} messages before {len(row['_response'])} answers, or longer than `cutoff_len`",
        )

    def _refused(self, row: dict[str, Any], error: Exception) -> Verdict:
        """Explain why template, tokenizer or processor stop at a record."""
        messages = [*row["_prompt"], *row["_response"]]
        if odd := [message["content"] for message in messages if not isinstance(message["content"], str)]:
            parts = isinstance(odd[0], list)
            remedy = _PARTS if parts else "Mend it, or take it out"
            return Verdict("the text of each message must be text", f"got {_excerpt(odd[0])}. {remedy}")
        for column, sign in _MEDIA.items():
            files, signs = row[column] or [], sum(message["content"].count(sign) for message in messages)
            if "does not match" in str(error) and len(files) != signs:
                return Verdict(
                    f"it must have as many `{sign}` in its text as files in its column of {column.removeprefix('_')}",
                    f"got {signs} and {len(files)}. Mend it, or name the column under `columns` in dataset_info.json",
                )
        for picture in row["_images"] or []:
            try:
                self._plugin._get_mm_inputs([picture], [], [], self._processor)
            except Exception as reason:
                return Verdict(
                    "LLaMA-Factory cannot make use of a picture",
                    f"{_excerpt(picture)}: {_quote(reason)}. Mend the file, or take the record out",
                )
        name = self._data_args.template
        if row["_images"] and (fault := template_fault(name, self._template, self._processor, with_picture=True)):
            return Verdict("LLaMA-Factory cannot make use of its pictures", fault)
        return Verdict("LLaMA-Factory refuses it", f"{_quote(error)}")

    def _mangled(self, row: dict[str, Any], encoded: Mapping[str, Any]) -> Verdict | None:
        """Tell what the host would train on, though it cannot be what is meant."""
        answers = [m["content"] for m in [*row["_prompt"], *row["_response"]] if m["role"] == "assistant"]
        if any(not answer.strip() for answer in answers):
            return Verdict("its answer must not be empty", f"got {answers!r}. Give it one, or take the record out")
        limit = self._data_args.cutoff_len
        (labels,) = encoded["labels"]
        if all(label == IGNORE_INDEX for label in labels):
            return Verdict(f"`cutoff_len: {limit}` leaves nothing of its answer", "raise it, or shorten the record")
        tokens = [token for token in (self._plugin.image_token, self._plugin.video_token) if token]
        if len(encoded["input_ids"][0]) < limit or not tokens or not any(row[column] for column in _MEDIA):
            return None
        (whole,) = self._uncut(row)["input_ids"]
        for token in self._tokenizer.convert_tokens_to_ids(tokens):
            if whole.count(token) != encoded["input_ids"][0].count(token):
                return Verdict(
                    f"`cutoff_len: {limit}` cuts through its pictures, at which the model stops",
                    f"it is {len(whole):,} tokens long. Raise `cutoff_len`, or lower `image_max_pixels`",
                )
        return None

    def _doubt(self, row: dict[str, Any], encoded: Mapping[str, Any]) -> str:
        """Tell what of a record is likely to be a mistake, although the host trains on it."""
        if not row["_prompt"][-1]["content"].strip():
            return "have no question"
        limit = self._data_args.cutoff_len
        if self._data_args.packing or len(encoded["input_ids"][0]) < limit:
            return ""
        uncut, longer = self._uncut(row), f"are longer than `cutoff_len: {limit}`, which cuts their"
        if sum(label != IGNORE_INDEX for label in encoded["labels"][0]) < sum(
            label != IGNORE_INDEX for label in uncut["labels"][0]
        ):
            return f"{longer} answers, so that their ends are not learned"
        return f"{longer} questions" if len(uncut["input_ids"][0]) > limit else ""

    def _uncut(self, row: dict[str, Any]) -> Mapping[str, Any]:
        """Return a record as the host encodes it without a limit."""
        return self._whole.preprocess_dataset({key: [value] for key, value in row.items()})


class _LastResult:
    """Keeps the last result of a function, for a plugin that asks for the same files again."""

    def __init__(self, function: Callable):
        self._function, self._arguments, self._result = function, None, None

    def __call__(self, images, videos, audios, *arguments, **named):
        key = (images, videos, audios, named)
        if self._arguments != key:
            self._arguments, self._result = None, self._function(images, videos, audios, *arguments, **named)
            self._arguments = copy.deepcopy(key)
        return dict(self._result)


#: Parts of a record for which dataset_info.json names columns.
_COLUMNS = (
    "messages", "prompt", "query", "response", "history", "system", "tools", "images", "videos", "audios", "kto_tag"
)  # fmt: skip


def _summaries(where: str, numbers: Sequence[int], verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yield one sentence for each fault: how many records have it, which, and what the first of them shows."""
    faults: dict[str, list[tuple[int, str]]] = {}
    for number, verdict in zip(numbers, verdicts, strict=True):
        if verdict.fault:
            faults.setdefault(verdict.fault, []).append((number, verdict.detail))
    for fault, found in faults.items():
        named = ", ".join(str(number + 1) for number, _ in found[:_NAMED])
        more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
        records = "record" if len(found) == 1 else "records"
        yield (
            f"{where}: {len(found):,} of {len(numbers):,} records cannot be trained on, {records} {named}{more} "
            f"(counted from 1): {fault}; record {found[0][0] + 1}: {found[0][1].rstrip('.')}."
        )


def _split_fault(count: int, data_args) -> str | None:
    """Return what the host says where it cannot take a part of so many records for validation."""
    try:
        split_dataset(Dataset.from_dict({"record": range(count)}), None, data_args, seed=0)
    except ValueError as error:
        return _quote(error)
    return None


def _doubts(where: str, numbers: Sequence[int], verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yield one sentence for each doubt: how many records it is of, and which."""
    doubted: dict[str, list[int]] = {}
    for number, verdict in zip(numbers, verdicts, strict=True):
        if verdict.doubt:
            doubted.setdefault(verdict.doubt, []).append(number)
    for doubt, found in doubted.items():
        more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
        named = ", ".join(str(number + 1) for number in found[:_NAMED])
        yield f"{where}: {len(found):,} of {len(numbers):,} records {doubt}: {named}{more} (counted from 1)."


def _asd_errors(name: str, records, attributes: DatasetAttr, data_args, training_args) -> list[str]:
    """Rewrite the share that will be trained, of what the host aligned."""
    remedy = "`asd_ratio: 0` trains it as it is."
    if ORIGIN in records.column_names:
        reason = "some of its records are of other styles already, by `sefe asd build`."
        return [f"`asd_ratio` on dataset {name}: {reason} {remedy}"]
    try:
        rewrite(
            loader.align_dataset(records, attributes, data_args, training_args),
            name,
            data_args.asd_ratio,
            training_args.seed,
        )
    except ValueError as error:
        return [str(error)]
    return []


def _with(arguments, **changes):
    changed = copy.copy(arguments)
    vars(changed).update(changes)
    return changed


def _quote(error: Exception) -> str:
    """Return the first words of an error of the host, without the record that it prints after them."""
    text = " ".join(str(error).split(" in [{")[0].split())
    return f"{type(error).__name__}: {_excerpt(text)}"


def _excerpt(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _QUOTED else text[:_QUOTED] + "..."
