"""Whether a template can work with the processor of the model, asked of the host before any record is tried."""

from typing import Any

from llamafactory.extras.constants import IMAGE_PLACEHOLDER
from PIL import Image


#: Width and height, in pixels, of the blank picture that is tried.
_SIDE = 64
#: Characters of the host's own words that the message quotes.
_QUOTED = 200


def template_fault(name: str, template, processor: Any, with_picture: bool = False) -> str | None:
    """Tell why a template cannot work with the processor of the model; None where it can.

    Args:
        name: The template's name.
        template: The host's template.
        processor: The host's processor; None for a model without one.
        with_picture: Whether the question that is tried has a picture.
    """
    pictures = [Image.new("RGB", (_SIDE, _SIDE))] if with_picture else []
    question = [{"role": "user", "content": f"{IMAGE_PLACEHOLDER * len(pictures)}?"}]
    try:
        template.mm_plugin.process_messages(question, pictures, [], [], processor)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return (
            f"`template: {name}` does not fit the image processor of this model ({type(error).__name__}: "
            f"{str(error)[:_QUOTED]}). Choose the template of the model; `sefe new` finds it"
        )
    return None
