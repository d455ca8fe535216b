"""Boxes and pictures agree: where CoIN's coordinates say an object is, the model's input shows it."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, CLIPImageProcessor, CLIPImageProcessorPil, LlavaNextImageProcessor

from sefe_plugin.answers.boxes import box_iou
from sefe_plugin.hosts.llamafactory.images import pad_images


SIDE = 84
SETTINGS = {
    "size": {"shortest_edge": SIDE},
    "crop_size": {"height": SIDE, "width": SIDE},
    "image_mean": [0.48, 0.46, 0.41],
    "image_std": [0.27, 0.26, 0.28],
}
#: Picture size and the object's pixels in it: near an edge, where cropping the centre would lose it.
SCENES = [((192, 96), (150, 20, 186, 76)), ((96, 192), (20, 6, 76, 42)), ((120, 120), (70, 10, 110, 60))]


def picture(size, box):
    image = Image.new("RGB", size, (0, 0, 255))
    image.paste((255, 0, 0), box)
    return image


def coin_box(size, box):
    """The box in CoIN's coordinates: shares of the centred square around the picture."""
    side = max(size)
    left, top = ((side - length) / 2 for length in size)
    return tuple((value + shift) / side for value, shift in zip(box, (left, top, left, top), strict=True))


def make_processor(cls=CLIPImageProcessor):
    return SimpleNamespace(image_processor=cls(**SETTINGS))


def seen(processor, image):
    """The colours that the host hands to the model, shape (3, SIDE, SIDE), in [0, 1]."""
    from llamafactory.data.mm_plugin import get_mm_plugin

    inputs = get_mm_plugin("llava", "<image>")._get_mm_inputs([image], [], [], processor)
    (pixels,) = inputs["pixel_values"]
    mean, std = (torch.tensor(SETTINGS[name])[:, None, None] for name in ("image_mean", "image_std"))
    return pixels * std + mean


def seen_box(colours):
    """The box around what is red, in shares of the side."""
    rows, columns = torch.nonzero(colours[0] - colours[2] > 0.5, as_tuple=True)
    if not len(rows):
        return (0.0, 0.0, 0.0, 0.0)
    edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return tuple(float(edge) / SIDE for edge in edges)


@pytest.mark.parametrize("cls", [CLIPImageProcessor, CLIPImageProcessorPil])
@pytest.mark.parametrize(("size", "box"), SCENES)
def test_objects_are_where_their_boxes_say(size, box, cls):
    processor = make_processor(cls)
    pad_images(processor)
    # Half a pixel of 84 on each side of a box 16 pixels wide.
    assert box_iou(seen_box(seen(processor, picture(size, box))), coin_box(size, box)) > 0.9


@pytest.mark.parametrize(("size", "box"), SCENES[:2])
def test_without_padding_they_are_not(size, box):
    assert box_iou(seen_box(seen(make_processor(), picture(size, box))), coin_box(size, box)) < 0.5


def test_the_background_is_the_mean_colour():
    processor = make_processor()
    pad_images(processor)
    corner = seen(processor, picture(*SCENES[0]))[:, 0, 0]
    # Colours are whole numbers of 255.
    assert torch.allclose(corner, torch.tensor(SETTINGS["image_mean"]), atol=1 / 255)


def test_square_images_do_not_change():
    image = Image.effect_noise((120, 120), 90).convert("RGB")
    before, processor = seen(make_processor(), image), make_processor()
    pad_images(processor)
    assert torch.equal(seen(processor, image), before)


def test_a_saved_processor_pads_as_well(tmp_path):
    processor = make_processor()
    pad_images(processor)
    processor.image_processor.save_pretrained(tmp_path)
    loaded = SimpleNamespace(image_processor=AutoImageProcessor.from_pretrained(tmp_path))
    image = picture(*SCENES[0])
    expected = seen(processor, image)
    assert torch.equal(seen(loaded, image), expected)
    pad_images(loaded)
    assert torch.equal(seen(loaded, image), expected)


def test_processors_that_see_the_whole_image_are_left_alone():
    processor = make_processor(LlavaNextImageProcessor)
    before = processor.image_processor
    pad_images(processor)
    assert processor.image_processor is before
