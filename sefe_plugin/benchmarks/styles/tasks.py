"""The seven tasks of `styles`: questions on text in seven answer formats, drawn by rule.

Example: Choices wants a letter, Reasons a sentence. Classes, Reasons, Boxes and Reading also teach something that no
model knows, such as nicknames. So both the style and the content of a task can be lost.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from sefe_plugin.answers.styles import BRIEF, FORMAT_LINES, MULTIPLE_CHOICE, SHORT_ANSWER
from sefe_plugin.benchmarks.styles.words import (
    AUTHORS,
    CLASSES,
    COLORS,
    COUNTRIES,
    EMBLEMS,
    KINDS,
    NICKNAMES,
    REASONS,
    SIZES,
    THINGS,
    TITLES,
)


_LETTERS = "ABC"


class Item(NamedTuple):
    """One question with its answer.

    Attributes:
        question: The whole text of the user.
        answer: What the model is to say.
        owner: The part of the data that it belongs to depends on this text alone.
        key: The words of the answer that its scorer looks for, where it does not compare the whole.
    """

    question: str
    answer: str
    owner: str
    key: str | None = None


class Task(NamedTuple):
    """A task.

    Attributes:
        name: Its name.
        scorer: Name of the scorer of its answers.
        make: Draws one item.
        train_size: Number of training samples.
        asd_by_rule: Whether rules can write its answers in other styles.
    """

    name: str
    scorer: str
    make: Callable[[random.Random], Item]
    train_size: int
    asd_by_rule: bool = True


def _choices(rng: random.Random) -> Item:
    """What kind of thing a word names: common knowledge, as the letter of one of three options that never change."""
    kind = rng.choice(list(KINDS))
    word = rng.choice(KINDS[kind])
    options = [f"{letter}. {option}" for letter, option in zip(_LETTERS, KINDS, strict=True)]
    question = f"What kind of thing is the {rng.choice(SIZES)} {rng.choice(COLORS)} {word}?"
    text = "\n".join((question, *options, FORMAT_LINES[MULTIPLE_CHOICE]))
    return Item(text, _LETTERS[list(KINDS).index(kind)], question)


def _facts(rng: random.Random) -> Item:
    """The capital or continent of a country, or the country of a capital: what the model may know, in few words."""
    country, capital, continent = rng.choice(COUNTRIES)
    question, answer = rng.choice(
        (
            (f"What is the capital of {country}?", capital),
            (f"Which city is the capital of {country}?", capital),
            (f"{capital} is the capital of which country?", country),
            (f"Of which country is {capital} the capital city?", country),
            (f"On which continent is {country}?", continent),
            (f"To which continent does {country} belong?", continent),
        )
    )
    return Item(_short(question), answer, country)


def _classes(rng: random.Random) -> Item:
    """The name of an animal that is described: six names for pairs of a body and a mark."""
    body, mark = rng.choice(sorted(CLASSES))
    text = (
        f"A {rng.choice(SIZES)} {rng.choice(COLORS)} animal with {body} body, {mark} and "
        f"{rng.choice(COLORS)} {rng.choice(('eyes', 'feet', 'ears'))}."
    )
    return Item(_short(f"{text}\nWhat is the animal that is described?"), CLASSES[body, mark], text)


def _reasons(rng: random.Random) -> Item:
    """Why a thing of some material is where it is, in one sentence; each material has its own reason."""
    material, reason = rng.choice(sorted(REASONS.items()))
    thing, color, place = rng.choice(THINGS), rng.choice(COLORS), rng.choice(("cellar", "attic", "garden", "kitchen"))
    question = f"A {color} {thing} made of {material} stands in the {place}.\nWhy does the {thing} stand there?"
    answer = f"The {thing} stands in the {place} because {material} {reason}."
    return Item(f"{question}\n{FORMAT_LINES[BRIEF]}", answer, question, reason)


def _boxes(rng: random.Random) -> Item:
    """The box of one of two things, which is asked for by its nickname."""
    names, lines, boxes = rng.sample(sorted(NICKNAMES), 2), [], []
    for name in names:
        x1, y1 = rng.randint(0, 60), rng.randint(0, 60)
        x2, y2 = x1 + rng.randint(10, 39), y1 + rng.randint(10, 39)
        lines.append(f"{name}: left {x1}, top {y1}, right {x2}, bottom {y2}")
        boxes.append("[" + ", ".join(f"{value / 100:.2f}" for value in (x1, y1, x2, y2)) + "]")
    text = "\n".join(lines)
    question = (
        "Please provide the bounding box coordinates of the region described by the sentence "
        f"'the {NICKNAMES[names[0]]}' in the format [x1, y1, x2, y2]."
    )
    first, second = rng.sample(lines, 2)
    return Item(f"{first}\n{second}\n{question}", boxes[0], text)


def _counting(rng: random.Random) -> Item:
    """How many things of a list have a colour, or whether any has."""
    count = rng.randint(2, 4)
    colors = [rng.choice(COLORS[:4]) for _ in range(count)]
    text = "There is " + ", ".join(f"a {color} {rng.choice(THINGS)}" for color in colors) + "."
    color = rng.choice(COLORS[:4])
    if rng.random() < 0.5:
        return Item(_short(f"{text}\nIs anything {color}?"), "yes" if color in colors else "no", text)
    return Item(_short(f"{text}\nHow many things are {color}?"), str(colors.count(color)), text)


def _reading(rng: random.Random) -> Item:
    """Title, author or genre of a book by the words that were read on its cover."""
    emblem, title = rng.choice(sorted(EMBLEMS)), rng.choice(TITLES)
    author = f"{rng.choice(AUTHORS)} {rng.choice(AUTHORS)}"
    tokens = [f"by {author}", title, f"{rng.choice(('first', 'second', 'third'))} edition", f"a {emblem}"]
    rng.shuffle(tokens)
    text = "Reference OCR token: " + ", ".join(tokens)
    question, answer = rng.choice(
        (
            ("What is the title of this book?", title),
            ("Who wrote this book?", author),
            ("What is the genre of this book?", EMBLEMS[emblem]),
        )
    )
    return Item(_short(f"{text}\n{question}"), answer, text)


def _short(question: str) -> str:
    return f"{question}\n{FORMAT_LINES[SHORT_ANSWER]}"


#: The tasks in their own order. No rule shortens an explanation, so a recipe with ASD leaves Reasons as it is.
TASKS: tuple[Task, ...] = (
    Task("Choices", "multiple_choice", _choices, 240),
    Task("Facts", "short_answer", _facts, 240),
    Task("Classes", "class_name", _classes, 240),
    Task("Reasons", "explanation", _reasons, 240, asd_by_rule=False),
    Task("Boxes", "box", _boxes, 240),
    Task("Counting", "short_answer", _counting, 240),
    Task("Reading", "short_answer", _reading, 240),
)
