"""The eight tasks of mini-CoIN: CoIN's names, order, instruction texts and answer formats on drawn pictures.

Each task needs something that the base never learned to say: what shapes can do, how creatures are called, what
colours stand for, new words, nicknames of shapes and boxes on CoIN's instruction. Instruction lines are CoIN's own.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from sefe_plugin.answers.styles import FORMAT_LINES, MULTIPLE_CHOICE, SHORT_ANSWER
from sefe_plugin.benchmarks.minicoin.draw import (
    AUTHORS,
    COLORS,
    KNOWN_WORDS,
    MARKS,
    NEW_WORDS,
    POSITIONS,
    SHAPES,
    SIDE,
    SIZES,
    Cover,
    Creature,
    Picture,
    Scene,
    Thing,
)


#: What the tasks teach: none of these pairs occurs in the base's pre-training.
VERBS = dict(zip(SHAPES, ("roll", "stack", "slide", "cut", "spin", "shine"), strict=True))
GOODS = dict(zip(SHAPES, ("coin", "brick", "pizza", "kite", "plaster", "badge"), strict=True))
NICKNAMES = dict(zip(SHAPES, ("wheel", "crate", "wedge", "gem", "plus", "spark"), strict=True))
GENRES = dict(zip(SHAPES, ("cooking", "travel", "history", "romance", "science", "sports"), strict=True))
MATERIALS = dict(zip(COLORS, ("clay", "grass", "glass", "straw", "wool", "copper"), strict=True))
FLAVORS = dict(zip(COLORS, ("cherry", "mint", "berry", "lemon", "grape", "peach"), strict=True))
_NAMES = (
    "goldfish",
    "zebra",
    "beagle",
    "robin",
    "acorn",
    "pretzel",
    "teapot",
    "volcano",
    "canoe",
    "tabby",
    "lynx",
    "hammer",
)
SPECIES = {(shape, mark): _NAMES[2 * i + j] for i, shape in enumerate(SHAPES) for j, mark in enumerate(MARKS)}
UNANSWERABLE = "unanswerable"

_LETTERS = "ABCDE"


class Item(NamedTuple):
    """One question: the picture (None for a question on text alone), the user text without `<image>`, the answer."""

    picture: Picture | None
    text: str
    answer: str


class Task(NamedTuple):
    """A task's CoIN name, scorer, function that makes one item from a random stream, and number of training samples.

    Items that `keep` refuses are drawn, so the tokenizer knows their words, but belong to no data set.

    The numbers differ as CoIN's do, and are about what plain LoRA needs to learn the task in four epochs.
    """

    name: str
    scorer: str
    make: Callable[[random.Random], Item]
    train_size: int
    keep: Callable[[Item], bool] = lambda item: True


def random_scene(
    rng: random.Random,
    things: tuple[int, int],
    signs: int = 0,
    words: tuple[str, ...] = KNOWN_WORDS,
    flaw: str | None = None,
) -> Scene:
    """Return a scene with `things` (least, most) things of different shapes and `signs` signs with different words."""
    count = rng.randint(*things)
    cells: list[Thing | str | None] = [None] * len(POSITIONS)
    places = rng.sample(range(len(POSITIONS)), count + signs)
    for place, shape in zip(places, rng.sample(SHAPES, count), strict=False):
        color, size = rng.choice(list(COLORS)), rng.choice(list(SIZES))
        cells[place] = Thing(shape, color, size, rng.choice((-2, 0, 2)), rng.choice((-2, 0, 2)))
    for place, word in zip(places[count:], rng.sample(words, signs), strict=True):
        cells[place] = word
    return Scene(tuple(cells), rng.randint(0, 50), flaw, rng.getrandbits(30) if flaw else 0)


def random_creature(rng: random.Random) -> Creature:
    """Return a creature of any class and colour."""
    return Creature(
        rng.choice(SHAPES),
        rng.choice(list(COLORS)),
        rng.choice(list(MARKS)),
        rng.randint(-3, 3),
        rng.randint(-3, 3),
        rng.randint(0, 50),
    )


def random_cover(rng: random.Random, titles: tuple[str, ...]) -> Cover:
    """Return a book cover with one of `titles`."""
    return Cover(
        rng.choice(list(COLORS)), rng.choice(SHAPES), rng.choice(titles), rng.choice(AUTHORS), rng.randint(0, 50)
    )


def box_text(box: tuple[int, int, int, int]) -> str:
    """Return a pixel box as CoIN writes it: shares of the image's side with two decimals."""
    return "[" + ", ".join(f"{value / SIDE:.2f}" for value in box) + "]"


def short(question: str, note: str = "") -> str:
    """Return a question with CoIN's short-answer line; `note` is a line between the two."""
    return "\n".join(filter(None, (question, note, FORMAT_LINES[SHORT_ANSWER])))


def _pick(rng: random.Random, scene: Scene) -> tuple[int, Thing]:
    return rng.choice(sorted(scene.things().items(), key=lambda entry: entry[0]))


def _science_qa(rng: random.Random) -> Item:
    scene: Scene | None = random_scene(rng, (1, 1))
    thing = _pick(rng, scene)[1]
    lines = ["What can this object do?"]
    if rng.random() < 0.2:
        scene, lines = None, [*lines, f"Context: The object is a {thing.shape}."]
    answer = VERBS[thing.shape]
    options = [answer, *rng.sample([verb for verb in VERBS.values() if verb != answer], rng.randint(2, 3))]
    rng.shuffle(options)
    lines += [f"{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=False)]
    return Item(scene, "\n".join([*lines, FORMAT_LINES[MULTIPLE_CHOICE]]), _LETTERS[options.index(answer)])


def _text_vqa(rng: random.Random) -> Item:
    scene = random_scene(rng, (0, 2), signs=2, words=KNOWN_WORDS[:2] + NEW_WORDS)
    cell, word = rng.choice(sorted(scene.signs().items()))
    tokens = list(scene.signs().values())
    tokens.append(rng.choice([other for other in NEW_WORDS if other not in tokens]))
    rng.shuffle(tokens)
    note = f"Reference OCR token: {', '.join(tokens)}"
    return Item(scene, short(f"What does the sign at the {POSITIONS[cell]} say?", note), word)


def _image_net(rng: random.Random) -> Item:
    creature = random_creature(rng)
    return Item(creature, short("What is the object in the image?"), SPECIES[creature.shape, creature.mark])


def _gqa(rng: random.Random) -> Item:
    scene = random_scene(rng, (2, 4))
    thing = _pick(rng, scene)[1]
    return Item(scene, short(f"What is the {thing.shape} made of?"), MATERIALS[thing.color])


def _viz_wiz(rng: random.Random) -> Item:
    flaw = rng.choice(("blurred", "dim", "dead"))
    scene = random_scene(rng, (1, 1), flaw=flaw)
    thing = _pick(rng, scene)[1]
    asks_color = rng.random() < 0.3
    answer = UNANSWERABLE if flaw == "dead" else thing.color if asks_color else GOODS[thing.shape]
    return Item(scene, short("What color is this item?" if asks_color else "What is this item?"), answer)


def _grounding(rng: random.Random) -> Item:
    scene = random_scene(rng, (2, 4))
    cell, thing = _pick(rng, scene)
    text = (
        "Please provide the bounding box coordinates of the region described by the sentence "
        f"'the {NICKNAMES[thing.shape]}' in the format [x1, y1, x2, y2]."
    )
    return Item(scene, text, box_text(thing.box(cell)))


def _vqa_v2(rng: random.Random) -> Item:
    scene = random_scene(rng, (1, 4))
    cell, thing = _pick(rng, scene)
    kind = rng.randrange(4)
    if kind == 0:
        size = rng.choice(list(SIZES))
        count = sum(other.size == size for other in scene.things().values())
        return Item(scene, short(f"How many {size} objects are there?"), str(count))
    if kind == 1:
        seen = {other.color for other in scene.things().values()}
        color = thing.color if rng.random() < 0.5 else rng.choice([color for color in COLORS if color not in seen])
        return Item(scene, short(f"Is anything {color}?"), "yes" if color in seen else "no")
    return Item(scene, short(f"What flavor is the object at the {POSITIONS[cell]}?"), FLAVORS[thing.color])


def _ocr_vqa(rng: random.Random) -> Item:
    cover = random_cover(rng, KNOWN_WORDS[:2] + NEW_WORDS)
    question, answer = rng.choice(
        (
            ("What is the title of this book?", cover.title),
            ("Who wrote this book?", cover.author),
            ("What is the genre of this book?", GENRES[cover.emblem]),
        )
    )
    return Item(cover, short(question), answer)


def _readable(item: Item) -> bool:
    """Leave out the titles that the frozen vision tower and projector do not tell apart well enough to be learned."""
    return item.answer not in NEW_WORDS


#: CoIN's tasks in CoIN's order.
TASKS: tuple[Task, ...] = (
    Task("ScienceQA", "multiple_choice", _science_qa, 2000),
    Task("TextVQA", "short_answer", _text_vqa, 400),
    Task("ImageNet", "class_name", _image_net, 300),
    Task("GQA", "short_answer", _gqa, 600),
    Task("VizWiz", "short_answer", _viz_wiz, 300),
    Task("Grounding", "box", _grounding, 1200),
    Task("VQAv2", "short_answer", _vqa_v2, 800),
    Task("OCRVQA", "short_answer", _ocr_vqa, 2500, _readable),
)
