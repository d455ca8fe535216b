"""What the base is pre-trained on: questions about pictures and short texts in the five answer styles, and boxes.

The other styles are made by the plugin's own rules (`sefe_plugin.asd.rules.rewrite`), so the base knows exactly the
item texts that Answer Style Diversification later mixes into a task. The corpus tells shapes, colours, sizes, places,
counts and the known words. It never says what the tasks teach: no class names, verbs, goods, materials, flavours,
genres, authors or new words for a picture, no unanswerable questions, and no box on CoIN's grounding instruction.
Those words occur only in texts to copy, which gives each a usable embedding.

Drills ask many small things at once: which letter stands before a word, which words are there, what stands where. They
train the look-ups that lettered options and yes or no are made of several times faster than single questions do.
"""

import random
from functools import cache
from typing import NamedTuple

from sefe_plugin.answers.styles import BRIEF, DETAILED, MULTIPLE_CHOICE, SHORT_ANSWER, YES_NO
from sefe_plugin.asd.items import option_lines
from sefe_plugin.asd.rules import BOX, AnswerPool, Sample, rewrite
from sefe_plugin.benchmarks.minicoin.data import IMAGE_TAG, part_of
from sefe_plugin.benchmarks.minicoin.draw import (
    AUTHORS,
    COLORS,
    KNOWN_WORDS,
    MARKS,
    NEW_WORDS,
    POSITIONS,
    SHAPES,
    SIZES,
    Cover,
    Creature,
    Picture,
    Scene,
)
from sefe_plugin.benchmarks.minicoin.tasks import (
    FLAVORS,
    GENRES,
    GOODS,
    MATERIALS,
    NICKNAMES,
    SPECIES,
    UNANSWERABLE,
    VERBS,
    Item,
    box_text,
    random_cover,
    random_creature,
    random_scene,
    short,
)


#: Words by kind, for texts to copy; the last eight kinds are what the tasks teach.
WORDS: tuple[tuple[str, ...], ...] = (
    SHAPES,
    tuple(COLORS),
    tuple(SIZES),
    POSITIONS,
    KNOWN_WORDS,
    tuple(MARKS),
    tuple("01234"),
    (*NEW_WORDS, UNANSWERABLE),
    AUTHORS,
    *(tuple(table.values()) for table in (SPECIES, VERBS, GOODS, NICKNAMES, MATERIALS, FLAVORS, GENRES)),
)
_SEEN = (*SHAPES, *COLORS, *SIZES, *KNOWN_WORDS, *MARKS)
_ALL = tuple(dict.fromkeys(word for kind in WORDS for word in kind))
#: Share of each style; yes/no and lettered options are the hardest to learn.
STYLE_WEIGHTS: dict[str, float] = {
    YES_NO: 0.25,
    MULTIPLE_CHOICE: 0.30,
    SHORT_ANSWER: 0.22,
    BRIEF: 0.10,
    DETAILED: 0.13,
}
#: Style name of drills, which have no response-format line.
DRILL = "drill"
#: Share of samples about boxes, and share of the others that start from a question with its own options.
_BOX_SHARE, _OPTIONS_SHARE = 0.12, 0.15
#: Share of boxes among the drills about scenes.
_BOX_DRILLS = 0.3
_POOL_SIZE = 6000


class PretrainSample(NamedTuple):
    """A picture (None for text alone), the whole user text, the answer, and the answer's style (or "box")."""

    picture: Picture | None
    question: str
    answer: str
    style: str


def random_picture(
    rng: random.Random,
    words: tuple[str, ...] = KNOWN_WORDS,
    flaws: tuple[str, ...] = ("blurred", "dim"),
    part: str = "pretraining",
) -> Picture:
    """Return a picture of a part, of any kind, with signs and titles from `words` and now and then one of `flaws`."""
    while part_of(picture := _any_picture(rng, words, flaws)) != part:
        pass
    return picture


def _any_picture(rng: random.Random, words: tuple[str, ...], flaws: tuple[str, ...]) -> Picture:
    kind = rng.random()
    if kind < 0.1:
        return random_creature(rng)
    if kind < 0.2:
        return random_cover(rng, words)
    signs = rng.choice((0, 0, 1, 2))
    flaw = rng.choice(flaws) if rng.random() < 0.1 else None
    return random_scene(rng, (1, 4 - signs), signs, words, flaw)


def sample_about(picture: Picture | None, rng: random.Random) -> PretrainSample:
    """Ask a random question about a picture, or about a text where there is none, in a random style."""
    style = rng.choices(list(STYLE_WEIGHTS), list(STYLE_WEIGHTS.values()))[0]
    if isinstance(picture, Scene) and rng.random() < _BOX_SHARE:
        return box_sample(picture, style, rng)
    item = question_about(picture, rng)
    sample, pool = Sample((IMAGE_TAG if picture else "") + item.text, item.answer), _short_pool()
    if rng.random() < _OPTIONS_SHARE:
        sample, pool = rewrite(sample, MULTIPLE_CHOICE, pool, rng), _choice_pool()
    if style != pool.native:
        sample = rewrite(sample, style, pool, rng)
    return PretrainSample(picture, sample.question, sample.answer, style)


def drill_about(picture: Picture | None, rng: random.Random) -> PretrainSample:
    """Return a drill about a picture, or about a text where there is none."""
    if picture is None:
        question, answer = rng.choice((_drill_letters, _drill_text))(rng)
        return PretrainSample(None, question, answer, DRILL)
    if isinstance(picture, Scene) and rng.random() < _BOX_DRILLS:
        boxes = [f"{thing.shape} {box_text(thing.box(cell))}" for cell, thing in picture.things().items()]
        return PretrainSample(picture, f"{IMAGE_TAG}What are the boxes?", ", ".join(boxes), DRILL)
    cells = [[word for word in words if word in _SEEN] for words in picture.visual_words()]
    if rng.random() < 0.5:
        places = rng.sample(range(len(POSITIONS)), len(POSITIONS))
        parts = [" ".join([POSITIONS[cell], *(cells[cell] or ["nothing"])]) for cell in places]
        return PretrainSample(picture, f"{IMAGE_TAG}What is at every place?", ", ".join(parts), DRILL)
    cell = rng.randrange(len(POSITIONS))
    question = f"{IMAGE_TAG}Which words fit the {POSITIONS[cell]}?"
    return PretrainSample(picture, question, _claims(cells[cell], _SEEN, rng), DRILL)


def box_sample(scene: Scene, style: str, rng: random.Random) -> PretrainSample:
    """Ask for the box of a thing by its shape, with a question of the base's own in the place of the short answer."""
    cell, thing = rng.choice(sorted(scene.things().items(), key=lambda entry: entry[0]))
    answer = box_text(thing.box(cell))
    if style == SHORT_ANSWER:
        return PretrainSample(scene, IMAGE_TAG + short(f"What is the box of the {thing.shape}?"), answer, BOX)
    sample = rewrite(Sample(_region_question(thing.shape), answer), style, _box_pool(), rng)
    return PretrainSample(scene, sample.question, sample.answer, style)


def question_about(picture: Picture | None, rng: random.Random) -> Item:
    """Return a random question with a short answer."""
    if picture is None:
        question, note, answer = _ask_text(rng)
        return Item(None, short(question, note), answer)
    ask = {Scene: _ask_scene, Creature: _ask_creature, Cover: _ask_cover}[type(picture)]
    question, answer = ask(picture, rng)
    return Item(picture, short(question), answer)


def _ask_scene(scene: Scene, rng: random.Random) -> tuple[str, str]:
    things, signs = scene.things(), scene.signs()
    if signs and rng.random() < 0.35:
        cell, word = rng.choice(sorted(signs.items()))
        return rng.choice(
            ((f"What word is at the {POSITIONS[cell]}?", word), (f"Where is the word {word}?", POSITIONS[cell]))
        )
    cell, thing = rng.choice(sorted(things.items(), key=lambda entry: entry[0]))
    kind = rng.randrange(7)
    if kind == 0:
        return "How many objects are there?", str(len(things))
    if kind == 1:
        shape = rng.choice(SHAPES)
        if rng.random() < 0.5:
            shape = thing.shape
        return f"Is there a {shape}?", "yes" if any(other.shape == shape for other in things.values()) else "no"
    if kind == 2:
        return f"What size is the {thing.shape}?", thing.size
    if kind == 3:
        return f"Where is the {thing.shape}?", POSITIONS[cell]
    if kind == 4:
        return f"What shape is at the {POSITIONS[cell]}?", thing.shape
    if kind == 5:
        return f"What color is the object at the {POSITIONS[cell]}?", thing.color
    return f"What color is the {thing.shape}?", thing.color


def _ask_creature(creature: Creature, rng: random.Random) -> tuple[str, str]:
    return rng.choice(
        (
            ("What shape is the creature?", creature.shape),
            ("What color is the creature?", creature.color),
            ("What color is the mark?", creature.mark),
        )
    )


def _ask_cover(cover: Cover, rng: random.Random) -> tuple[str, str]:
    return rng.choice(
        (
            ("What shape is on the cover?", cover.emblem),
            ("What color is the cover?", cover.color),
            ("What word is at the top of the cover?", cover.title),
        )
    )


def _ask_text(rng: random.Random) -> tuple[str, str, str]:
    """Return question, context line and answer: a word to copy, or one of several facts to look up."""
    kind = rng.choice(WORDS)
    if rng.random() < 0.5:
        word = rng.choice(kind)
        return "What is the word?", f"Context: The word is {word}.", word
    places = rng.sample(POSITIONS, rng.randint(2, 4))
    words = [rng.choice(kind) for _ in places]
    facts = " ".join(f"At the {place} is {word}." for place, word in zip(places, words, strict=True))
    index = rng.randrange(len(places))
    return f"What is at the {places[index]}?", f"Context: {facts}", words[index]


def _drill_letters(rng: random.Random) -> tuple[str, str]:
    words = rng.sample(_ALL, 4)
    lettered = [f"{word} {letter}" for word, letter in zip(words, "ABCD", strict=True)]
    return "\n".join(["Which letters?", *option_lines(words)]), ", ".join(rng.sample(lettered, 4))


def _drill_text(rng: random.Random) -> tuple[str, str]:
    words = rng.sample(_ALL, rng.randint(1, 4))
    return f"Which words are there?\nContext: {', '.join(words)}.", _claims(words, _ALL, rng)


def _claims(true: list[str], words: tuple[str, ...], rng: random.Random) -> str:
    """Return up to three of the true words and as many others, each followed by Yes or No."""
    chosen = rng.sample(true, min(len(true), 3))
    claims = [f"{word} Yes" for word in chosen]
    claims += [f"{word} No" for word in rng.sample([word for word in words if word not in true], max(1, len(chosen)))]
    return ", ".join(rng.sample(claims, len(claims)))


def _region_question(shape: str) -> str:
    return f"{IMAGE_TAG}Give the region described by the sentence 'the {shape}' in the format [x1, y1, x2, y2]."


@cache
def _short_pool() -> AnswerPool:
    """Return the answers from which the rules draw wrong ones, over all kinds of questions."""
    rng = random.Random("mini-coin answer pool")
    items = [question_about(random_picture(rng) if rng.random() < 0.7 else None, rng) for _ in range(_POOL_SIZE)]
    return AnswerPool([Sample(item.text, item.answer) for item in items], SHORT_ANSWER)


@cache
def _choice_pool() -> AnswerPool:
    return AnswerPool([], MULTIPLE_CHOICE)


@cache
def _box_pool() -> AnswerPool:
    rng = random.Random("mini-coin box pool")
    scenes = [random_scene(rng, (1, 4)) for _ in range(_POOL_SIZE // 10)]
    boxes = [box_text(thing.box(cell)) for scene in scenes for cell, thing in scene.things().items()]
    return AnswerPool([Sample(_region_question(SHAPES[0]), box) for box in boxes], BOX)
