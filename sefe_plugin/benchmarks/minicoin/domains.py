"""Mini-CoIN twice: its eight tasks, and the same eight in another visual domain, as one sequence of sixteen.

The second eight, named `<Task>_light`, have mini-CoIN's questions and answers on pictures of their own, shown light
where mini-CoIN is dark and the other way round, under grain. Hues, shapes and places stay, so all answers stay true,
boxes included; black and white change places, so the names of ImageNet's creatures are learned anew.
"""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from sefe_plugin.benchmarks.base import BenchmarkTask
from sefe_plugin.benchmarks.minicoin import MiniCoIN, data
from sefe_plugin.files import read_json, replacing_folder, write_json


DOMAIN = "light"

#: Share of the grain in a picture.
_GRAIN = 0.1

_MANIFEST = "manifest.json"


class MiniCoIN16(MiniCoIN):
    """Sixteen tasks in two visual domains."""

    name = "minicoin16"
    tasks = (*MiniCoIN.tasks, *(BenchmarkTask(f"{task.name}_{DOMAIN}", task.scorer) for task in MiniCoIN.tasks))

    def draw(self, folder: Path, arguments: Mapping[str, Any], for_trial: bool = False) -> None:
        """Draw the data of a run from its `seed`.

        `folder` becomes mini-CoIN's dataset folder, `folder`/light holds the second domain.

        Args:
            folder: Dataset folder of the run.
            arguments: The recipe's keys.
            for_trial: Whether to draw the first samples only.
        """
        seed, sizes = arguments.get("seed", 42), data.TRIAL_SIZES if for_trial else {}
        data.write_data(folder, seed, **sizes)
        _write_light(folder, _second_seed(seed), sizes)
        _declare(folder / "dataset_info.json")
        self.write_retention_sets(folder, arguments)


def to_light(picture: Image.Image, grain_seed: str) -> Image.Image:
    """Invert the lightness of a picture, keep its hues, and add grain.

    With the lightness (max + min) / 2 of a pixel's channels, every channel c becomes c + 255 - max - min.

    Args:
        picture: RGB.
        grain_seed: Seed of the grain.
    """
    channels = picture.split()
    most = ImageChops.lighter(ImageChops.lighter(*channels[:2]), channels[2])
    least = ImageChops.darker(ImageChops.darker(*channels[:2]), channels[2])
    room = ImageChops.invert(most)
    light = Image.merge("RGB", [ImageChops.add(ImageChops.subtract(c, least), room) for c in channels])
    width, height = picture.size
    grain = Image.frombytes("RGB", picture.size, random.Random(grain_seed).randbytes(3 * width * height))
    return Image.blend(light, grain, _GRAIN)


def _second_seed(seed: int) -> int:
    """Return a seed that no run draws its first domain from, on the same side of the validation seeds."""
    return -1 - seed if seed < data.VALIDATION_SEEDS else seed + 10**9


def _declare(file: Path) -> None:
    """Add the datasets of both domains to mini-CoIN's description of its own."""
    own = {
        name: entry
        for name, entry in read_json(file).items()
        if name.startswith("minicoin_") and name not in MiniCoIN16.retention_sets
    }
    info = dict(own)
    for name, entry in own.items():
        stem, split = name.replace("minicoin_", "minicoin16_").rsplit("_", 1)
        info[f"{stem}_{split}"] = entry
        info[f"{stem}_{DOMAIN}_{split}"] = {**entry, "file_name": f"{DOMAIN}/{entry['file_name']}"}
    write_json(file, info)


def _write_light(folder: Path, seed: int, sizes: Mapping[str, int]) -> None:
    """Draw mini-CoIN from `seed` and keep its light version as `folder`/light, whole or not at all.

    One that is there is kept where it has this seed, and version and sizes of the first domain in `folder`.
    """
    final = folder / DOMAIN
    if final.is_dir() and read_json(final / _MANIFEST) == {**read_json(folder / _MANIFEST), "seed": seed}:
        return
    with replacing_folder(final) as draft:
        data.write_data(draft, seed, **sizes)
        for file in sorted(draft.rglob("*.png")):
            path = file.relative_to(draft).as_posix()
            to_light(Image.open(file).convert("RGB"), f"{path} {seed}").save(file)
        for file in sorted(draft.glob("*/*.json")):
            records = read_json(file)
            for record in records:
                if "image" in record:
                    record["image"] = f"{DOMAIN}/{record['image']}"
            write_json(file, records)
