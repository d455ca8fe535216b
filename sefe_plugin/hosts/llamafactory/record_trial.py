"""One training record, taken through the host's own converter, template and processor before anything is trained."""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llamafactory.data import loader
from llamafactory.data.converter import get_dataset_converter
from llamafactory.data.parser import DatasetAttr
from llamafactory.data.processor import SupervisedDatasetProcessor
from llamafactory.extras.constants import AUDIO_PLACEHOLDER, IGNORE_INDEX, IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER
from PIL import Image

from sefe_plugin.hosts.llamafactory.media import media_fault, media_files
from sefe_plugin.hosts.llamafactory.template_trial import template_fault
from sefe_plugin.words import near


#: Characters of the host's own words that a message quotes.
_QUOTED = 300

_MEDIA = {"_images": IMAGE_PLACEHOLDER, "_videos": VIDEO_PLACEHOLDER, "_audios": AUDIO_PLACEHOLDER}

#: What to do with a list of parts in the place of a text.
PARTS = "Write <image> where a picture belongs, and list the pictures in a column of their own"


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


class RecordTrial:
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
        return Verdict("LLaMA-Factory cannot convert it", f"{quoted(error)}. Mend it, or take it out")

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
            remedy = PARTS if parts else "Mend it, or take it out"
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
                    f"{_excerpt(picture)}: {quoted(reason)}. Mend the file, or take the record out",
                )
        name = self._data_args.template
        if row["_images"] and (fault := template_fault(name, self._template, self._processor, with_picture=True)):
            return Verdict("LLaMA-Factory cannot make use of its pictures", fault)
        return Verdict("LLaMA-Factory refuses it", f"{quoted(error)}")

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


def _with(arguments, **changes):
    changed = copy.copy(arguments)
    vars(changed).update(changes)
    return changed


def quoted(error: Exception) -> str:
    """Return the first words of an error of the host, without the record that it prints after them."""
    text = " ".join(str(error).split(" in [{")[0].split())
    return f"{type(error).__name__}: {_excerpt(text)}"


def _excerpt(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _QUOTED else text[:_QUOTED] + "..."
