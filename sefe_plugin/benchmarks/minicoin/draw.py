"""Pictures of mini-CoIN: three kinds of 64x64 images, drawn by Pillow with integer arithmetic and its bitmap font.

Every picture knows what it shows: `visual_words` names the content of its four quadrants, which is what the vision
tower of the tiny base is trained to tell.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFilter, ImageFont


SIDE = 64

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (60, 90, 240),
    "yellow": (240, 220, 40),
    "purple": (160, 60, 190),
    "orange": (245, 140, 30),
}
#: Half the side of a thing in pixels.
SIZES: dict[str, int] = {"small": 7, "large": 13}
POSITIONS: tuple[str, ...] = ("top left", "top right", "bottom left", "bottom right")

#: Corner points of the shapes in a square of side 2 around (0, 0); "circle" is an ellipse.
_C = 1 / 3
_OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "circle": (),
    "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "triangle": ((0, -1), (1, 1), (-1, 1)),
    "diamond": ((0, -1), (0.6, 0), (0, 1), (-0.6, 0)),
    "cross": (
        *((-_C, -1), (_C, -1), (_C, -_C), (1, -_C), (1, _C), (_C, _C)),
        *((_C, 1), (-_C, 1), (-_C, _C), (-1, _C), (-1, -_C), (-_C, -_C)),
    ),
    "star": (
        *((0, -1), (0.25, -0.3), (1, -0.3), (0.4, 0.1), (0.65, 0.9)),
        *((0, 0.4), (-0.65, 0.9), (-0.4, 0.1), (-1, -0.3), (-0.25, -0.3)),
    ),
}
SHAPES: tuple[str, ...] = tuple(_OUTLINES)

#: Words on signs and titles that the base learns to read, and those that only the tasks teach it to say.
KNOWN_WORDS: tuple[str, ...] = ("cat", "dog", "sun", "bus", "cup", "hat", "key", "box")
NEW_WORDS: tuple[str, ...] = ("map", "pen", "toy", "jam", "fly", "web")
AUTHORS: tuple[str, ...] = ("kim", "lee", "bob", "ann", "tom", "joe")
MARKS: dict[str, tuple[int, int, int]] = {"white": (255, 255, 255), "black": (0, 0, 0)}

_CENTRES = ((16, 16), (48, 16), (16, 48), (48, 48))
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True)
class Thing:
    """A coloured shape; `dx` and `dy` move it off the centre of its quadrant, in pixels."""

    shape: str
    color: str
    size: str
    dx: int = 0
    dy: int = 0

    def box(self, cell: int) -> tuple[int, int, int, int]:
        """Return (x1, y1, x2, y2) in pixels when the thing stands in quadrant `cell`."""
        x, y = _CENTRES[cell][0] + self.dx, _CENTRES[cell][1] + self.dy
        half = SIZES[self.size]
        return x - half, y - half, x + half, y + half

    def words(self) -> list[str]:
        """Return the visual words of the thing, its place included."""
        across = ["moved left", "centred", "moved right"][(self.dx > 0) - (self.dx < 0) + 1]
        down = ["moved up", "level", "moved down"][(self.dy > 0) - (self.dy < 0) + 1]
        return [self.shape, self.color, self.size, across, down]


@dataclass(frozen=True)
class Scene:
    """Four quadrants in the order of `POSITIONS`, each with a thing, a word on a sign, or nothing.

    `flaw` spoils the photograph: "blurred", "dim", or "dead" (nothing can be seen); `noise` seeds its grain.
    """

    cells: tuple[Thing | str | None, ...]
    background: int = 20
    flaw: str | None = None
    noise: int = 0

    def things(self) -> dict[int, Thing]:
        """Return quadrant index -> thing."""
        return {cell: thing for cell, thing in enumerate(self.cells) if isinstance(thing, Thing)}

    def signs(self) -> dict[int, str]:
        """Return quadrant index -> word on the sign."""
        return {cell: word for cell, word in enumerate(self.cells) if isinstance(word, str)}

    def visual_words(self) -> list[list[str]]:
        """Return what each quadrant shows; nothing where the photograph is dead."""
        if self.flaw == "dead":
            return [[] for _ in self.cells]
        return [
            content.words() if isinstance(content, Thing) else [] if content is None else ["sign", content]
            for content in self.cells
        ]

    def draw(self) -> Image.Image:
        """Return the RGB image."""
        image = Image.new("RGB", (SIDE, SIDE), (self.background,) * 3)
        pen = ImageDraw.Draw(image)
        for cell, content in enumerate(self.cells):
            if isinstance(content, Thing):
                draw_shape(pen, content.shape, content.box(cell), COLORS[content.color])
            elif content is not None:
                x, y = _CENTRES[cell]
                pen.rectangle((x - 14, y - 8, x + 14, y + 8), fill=(245, 245, 245))
                draw_word(image, content, (x, y), 1, _BLACK)
        return image if self.flaw is None else spoil(image, self.flaw, self.noise)


@dataclass(frozen=True)
class Creature:
    """One large thing with a mark inside: the pictures of ImageNet's classes."""

    shape: str
    color: str
    mark: str
    dx: int = 0
    dy: int = 0
    background: int = 20

    def visual_words(self) -> list[list[str]]:
        """Return the same words for all four quadrants."""
        return [["creature", self.shape, self.color, self.mark]] * 4

    def draw(self) -> Image.Image:
        """Return the RGB image."""
        image = Image.new("RGB", (SIDE, SIDE), (self.background,) * 3)
        pen = ImageDraw.Draw(image)
        x, y = 32 + self.dx, 32 + self.dy
        draw_shape(pen, self.shape, (x - 27, y - 27, x + 27, y + 27), COLORS[self.color])
        pen.ellipse((x - 6, y - 2, x + 6, y + 10), fill=MARKS[self.mark])
        return image


@dataclass(frozen=True)
class Cover:
    """A book cover: title above, emblem in the middle, author below."""

    color: str
    emblem: str
    title: str
    author: str
    background: int = 20

    def visual_words(self) -> list[list[str]]:
        """Return the words of the four quadrants: the title belongs to the upper, the author to the lower ones."""
        return [
            ["cover", self.emblem, self.color, word] for word in (self.title, self.title, self.author, self.author)
        ]

    def draw(self) -> Image.Image:
        """Return the RGB image."""
        image = Image.new("RGB", (SIDE, SIDE), (self.background,) * 3)
        pen = ImageDraw.Draw(image)
        pen.rectangle((4, 1, 59, 62), fill=COLORS[self.color])
        draw_word(image, self.title, (32, 11), 2, _BLACK)
        pen.rectangle((21, 21, 42, 42), fill=_BLACK)
        draw_shape(pen, self.emblem, (23, 23, 40, 40), _WHITE)
        draw_word(image, self.author, (32, 53), 2, _WHITE)
        return image


Picture = Scene | Creature | Cover


def draw_shape(pen: ImageDraw.ImageDraw, shape: str, box: Sequence[int], color: tuple[int, int, int]) -> None:
    """Fill `shape` into `box` (x1, y1, x2, y2), in pixels."""
    if shape == "circle":
        pen.ellipse(tuple(box), fill=color)
        return
    x1, y1, x2, y2 = box
    half, x, y = (x2 - x1) / 2, (x1 + x2) / 2, (y1 + y2) / 2
    pen.polygon([(round(x + u * half), round(y + v * half)) for u, v in _OUTLINES[shape]], fill=color)


def draw_word(image: Image.Image, word: str, centre: tuple[int, int], scale: int, color: tuple[int, int, int]) -> None:
    """Write `word` in capitals around `centre`, in the bitmap font enlarged `scale` times."""
    font = ImageFont.load_default_imagefont()
    width, height = font.getbbox(word.upper())[2:]
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).text((0, 0), word.upper(), fill=255, font=font)
    mask = mask.resize((width * scale, height * scale), Image.Resampling.NEAREST)
    image.paste(color, (centre[0] - mask.width // 2, centre[1] - mask.height // 2), mask)


def spoil(image: Image.Image, flaw: str, noise: int) -> Image.Image:
    """Return the photograph with a flaw ("blurred", "dim" or "dead") and grain seeded by `noise`."""
    grain = Image.frombytes("RGB", image.size, random.Random(noise).randbytes(3 * SIDE * SIDE))
    if flaw == "blurred":
        return Image.blend(image.filter(ImageFilter.BoxBlur(1)), grain, 0.1)
    if flaw == "dim":
        return Image.blend(image.point(lambda value: value // 2), grain, 0.1)
    return Image.blend(Image.new("RGB", image.size, (noise % 120,) * 3), grain, 0.1)
