"""A sample taken apart: what a rule needs to ask the same thing in another style."""

import re
from dataclasses import dataclass
from functools import cached_property

from sefe_plugin.answers.boxes import Box, box_iou, parse_box, place_in_words
from sefe_plugin.answers.options import (
    chosen_option,
    may_be_mark,
    mentions_options,
    named_option,
    option_lines,
    option_mark,
    read_options,
)
from sefe_plugin.answers.styles import EXPLANATIONS, MULTIPLE_CHOICE, SHORT_ANSWER
from sefe_plugin.answers.texts import (
    BOX,
    PERIODS,
    answer_kind,
    content_words,
    has_placeholder,
    in_words,
    is_whole,
    placeholders,
    split_question,
    strip_periods,
)
from sefe_plugin.data.sample import Sample, UnsuitableSampleError


_TOKENS = "Reference OCR token:"
_HINTS = (_TOKENS, "Context:", "When the provided information is insufficient")
_SENTENCE = re.compile(
    r"described by the sentence '(.*)' in the format"
    r"|(?:sentence describes|described by the sentence):\s*(.*?)\.?\s*$",
    re.DOTALL,
)


@dataclass(frozen=True)
class Item:
    """A question with its gold answer, without its response-format line.

    Attributes:
        head: Image placeholders in front, with the line break after them; "" without an image.
        stem: The question with its context and hint lines, without options; image placeholders within it stay there.
        gold: The answer in words (of a multiple-choice sample, the text of the right option).
        options: Texts of the sample's own options, in order; empty where it has none.
    """

    head: str
    stem: str
    gold: str
    options: tuple[str, ...] = ()

    @cached_property
    def kind(self) -> str:
        """What the gold answer is: "yes_no", "number", "box" or "words"."""
        return answer_kind(self.gold)

    @property
    def question(self) -> str:
        """The question alone, on one line, to quote: the lines before the first hint, or the last line after one."""
        return " ".join(self._question_and_rest[0])

    @property
    def context(self) -> str:
        """The lines that are neither the question nor OCR tokens, possibly none."""
        return "\n".join(line for line in self._question_and_rest[1] if not line.startswith(_TOKENS))

    @property
    def tokens(self) -> list[str]:
        """The OCR tokens that the stem lists (TextVQA), possibly none."""
        start = self.stem.find(_TOKENS)
        if start < 0:
            return []
        line = self.stem[start + len(_TOKENS) :].split("\n", 1)[0]
        return [token for token in map(str.strip, line.split(", ")) if token and not has_placeholder(token)]

    @property
    def _question_and_rest(self) -> tuple[list[str], list[str]]:
        lines = in_words(self.stem, self.head).split("\n")
        hint = next((i for i, line in enumerate(lines) if line.startswith(_HINTS)), len(lines))
        return (lines[:hint], lines[hint:]) if hint else (lines[-1:], lines[:-1])

    @cached_property
    def mentions_options(self) -> bool:
        """Whether the question seems to have lettered options beside `options`."""
        return not self.options and _TOKENS not in self.stem and mentions_options(self.stem)

    def admits(self, wrong: str) -> bool:
        """Tell whether a text other than the gold is clearly wrong: an own option, or no part or whole of the gold.

        Where the gold is "black and white", "white" is not clearly wrong, nor the other way round. Nor is the letter
        of an option that nobody can read.
        """
        if self.options:
            return True
        if option_mark(wrong) and self.mentions_options:
            return False
        words, gold = content_words(wrong), content_words(self.gold)
        return not (words <= gold or gold <= words)

    def claim(self, value: str) -> str:
        """Ask whether a value is the answer."""
        return f"{self.stem}\nIs the answer {strip_periods(value)}?"

    def choice(self) -> str:
        """Ask for one of the options that follow."""
        return self.stem

    def open(self) -> str:
        """Ask for an explanation; the sample's own options stay, since many questions refer to them."""
        return "\n".join([self.stem, *option_lines(self.options)])

    def brief(self) -> str:
        """Answer in one sentence."""
        return _sentence(f"The answer is {self.gold}")

    def detailed(self) -> str:
        """Answer in sentences that restate what the sample holds."""
        parts = [f"The question is: {self.question}"]
        if self.options:
            parts.append(f"The choices are {', '.join(strip_periods(option) for option in self.options)}.")
        clause = "Looking at the image, the" if self.head or has_placeholder(self.stem) else "The"
        return " ".join([*parts, _sentence(f"{clause} answer is {self.gold}")])


@dataclass(frozen=True)
class Region(Item):
    """A grounding item: the stem is the sentence that describes the region, the gold is its box.

    Attributes:
        box: The gold box as numbers.
        shares: Whether the box is given in shares of the image. If not, nobody knows how large the image is, and the
            texts say nothing of place and size.
    """

    box: Box = (0.0, 0.0, 0.0, 0.0)
    shares: bool = True

    kind = BOX
    mentions_options = False

    def admits(self, wrong: str) -> bool:
        """Tell whether a box is wrong: it covers the gold box by an IoU of at most 0.5."""
        return box_iou(parse_box(wrong), self.box) <= 0.5

    def claim(self, value: str) -> str:
        """Ask whether a box is the region."""
        return f"Is the region {value} described by the sentence '{self.stem}'?"

    def choice(self) -> str:
        """Ask for one of the boxes that follow."""
        return f"Which region does the sentence '{self.stem}' describe?"

    def open(self) -> str:
        """Ask for the region's place in words."""
        return f"Where is the region described by the sentence '{self.stem}'?"

    def brief(self) -> str:
        """Give the box and its place in words."""
        place = f", at the {place_in_words(self.box)} of the image" if self.shares else ""
        return f"The region is {self.gold}{place}."

    def detailed(self) -> str:
        """Restate the sentence, then give the box, its place in words and its size in percent of the image."""
        found = (
            f"The sentence to find is '{self.stem}'. "
            f"Looking at the image, the region that it describes is {self.gold}."
        )
        if not self.shares:
            return found
        width, height = (round(100 * (self.box[i + 2] - self.box[i])) for i in (0, 1))
        return (
            f"{found} It lies at the {place_in_words(self.box)} of the image and takes up about {width} percent of "
            f"its width and {height} percent of its height."
        )


def parse_item(sample: Sample, native: str, shares: bool = True, scored_as: str | None = None) -> Item:
    """Take a sample apart.

    Args:
        sample: The sample in its task's own style.
        native: That style.
        shares: Whether boxes are given in shares of the image.
        scored_as: The style of the answers that the task's scorer reads, None where it is not known.

    Returns:
        The item; its head keeps the image placeholders (those after the question move to the front, as LLaVA does).

    Raises:
        UnsuitableSampleError: Where the text does not have the parts that its style needs.
    """
    head, stem, line = split_question(sample.question)
    answer = sample.answer.strip()
    if not stem or not answer:
        raise UnsuitableSampleError(f"question or answer is empty: {sample}")
    if not is_whole(sample.question + answer):
        raise UnsuitableSampleError(f"the text holds half of a surrogate pair: {sample}")
    if has_placeholder(answer):
        raise UnsuitableSampleError(f"the answer holds an image placeholder: {sample}")
    if native == BOX:
        return _parse_region(sample, head, stem, answer, shares)
    if native == MULTIPLE_CHOICE:
        return _parse_choice(sample, head, stem, answer)
    if native not in EXPLANATIONS:
        return _parse_short(sample, head, stem, answer, in_words_for_sure=_is_content(line, scored_as))
    return Item(head, stem, answer)


def _is_content(line: str | None, scored_as: str | None) -> bool:
    """Tell whether a letter alone, or the number of a line, is an answer in itself: "Which letter is on the sign?"."""
    return scored_as == SHORT_ANSWER or (line is not None and scored_as != MULTIPLE_CHOICE)


def _parse_short(sample: Sample, head: str, stem: str, answer: str, in_words_for_sure: bool) -> Item:
    """Take the question's own options for its options; the answer is one of them, by its letter or its text."""
    options = read_options(stem)
    if options.texts and _TOKENS not in stem:
        place = chosen_option(options, answer)
        if place is None:
            place = named_option(options, answer)
        if place is not None and options.stem.strip() and not any(map(has_placeholder, options.texts)):
            return Item(head, options.stem, options.texts[place], options.texts)
    if not in_words_for_sure and may_be_mark(stem, answer):
        raise UnsuitableSampleError(
            f"the answer may be the letter or number of an option, and nobody knows what it stands for: {sample}"
        )
    return Item(head, stem, answer)


def _parse_region(sample: Sample, head: str, stem: str, answer: str, shares: bool) -> Region:
    match, box = _SENTENCE.search(stem), parse_box(answer)
    sentence = (match.group(1) or match.group(2) or "") if match else ""
    if not sentence.strip() or has_placeholder(sentence) or box is None:
        raise UnsuitableSampleError(
            "a grounding sample asks for the region described by the sentence '...' in the format [x1, y1, x2, y2] "
            f"and answers with one such box, got {sample}"
        )
    # The sentence alone is kept of the question, so its other placeholders go to the head.
    return Region(head + placeholders(stem), sentence, answer, box=box, shares=shares)


def _parse_choice(sample: Sample, head: str, stem: str, answer: str) -> Item:
    options = read_options(stem, numbers=True)
    place = chosen_option(options, answer)
    if place is None or not options.stem.strip() or any(map(has_placeholder, options.texts)):
        raise UnsuitableSampleError(
            "a multiple-choice sample has a question and options of words, best on lines 'A. ...', and answers with "
            f"the letter of one of them, got {sample}"
        )
    return Item(head, options.stem, options.texts[place], options.texts)


def _sentence(text: str) -> str:
    return text if text.endswith((*PERIODS, *"!?\uff01\uff1f")) else text + "."
