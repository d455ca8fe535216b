"""The whole image, padded to a square, where a model's own processor would crop it."""

import logging

from transformers import LlavaImageProcessor, ProcessorMixin


logger = logging.getLogger(__name__)

#: How the names of processors begin that crop the centre, whichever backend they have.
_CROPPING = ("CLIPImageProcessor", "LlavaImageProcessor")


def pad_images(processor: ProcessorMixin) -> None:
    """Make a processor pad images to a square before it resizes them, where it would crop their centre.

    CoIN's boxes are shares of the image padded to a centred square, whose side is the longer side of the image and
    whose background is the processor's mean colour (LLaVA, `image_aspect_ratio pad`). The processors of LLaVA-1.5 on
    Hugging Face resize the shorter side and crop the centre instead. transformers' `LlavaImageProcessor` pads as
    LLaVA does; it takes the place of theirs with the same settings and goes along when the processor is saved, so
    that training, scoring and whoever loads the merged model see the same geometry. Square images are unchanged.

    Processors that see the whole image by themselves, such as those of LLaVA-NeXT or Qwen2.5-VL, are left alone.

    Args:
        processor: the model's processor; changed in place.
    """
    current = processor.image_processor
    if not type(current).__name__.startswith(_CROPPING):
        logger.info("`pad_images`: %s sees the whole image; nothing to pad.", type(current).__name__)
        return
    processor.image_processor = LlavaImageProcessor.from_dict(current.to_dict() | {"do_pad": True})
