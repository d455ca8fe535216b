"""The host's own chat engine as the author of other answer styles: no server, the very model that is tuned."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import yaml
from PIL import Image

from sefe_plugin.asd.writer.generators import Reply, UnreadableImageError


_PLACEHOLDER = "<image>\n"


class ChatGenerator:
    """A model in this process, run by the host's chat engine; it is loaded when the first request is due.

    Args:
        config: YAML file with the host's arguments for a chat: `model_name_or_path`, `template`, and possibly
            `adapter_name_or_path`, `infer_backend` and generating arguments such as `max_new_tokens`.
        concurrency: How many requests may be under way at once; more than 1 is of use to the engines that batch.

    Raises:
        ValueError: Where the file names no model.
        OSError: Where the file cannot be read.
    """

    def __init__(self, config: Path, concurrency: int = 1):
        arguments = yaml.safe_load(config.read_text(encoding="utf-8"))
        if not isinstance(arguments, dict) or "model_name_or_path" not in arguments:
            raise ValueError(f"{config} must be a YAML file with `model_name_or_path`, as for `llamafactory-cli chat`")
        self.model = str(arguments["model_name_or_path"])
        # Random draws would make a build that was interrupted differ from one that was not.
        self.options = {"do_sample": False, **arguments}
        self.concurrency = concurrency

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Reply]:
        """Load the model; it stays until the context ends."""
        from llamafactory.chat import ChatModel

        chat = ChatModel(dict(self.options))

        async def reply(turns: Sequence[str], images: Sequence[Path]) -> str:
            await asyncio.to_thread(_check, images)
            first = _PLACEHOLDER * len(images) + turns[0]
            messages = [
                {"role": ("user", "assistant")[number % 2], "content": turn}
                for number, turn in enumerate([first, *turns[1:]])
            ]
            responses = await asyncio.to_thread(chat.chat, messages, images=[str(image) for image in images] or None)
            return responses[0].response_text

        yield reply


def _check(images: Sequence[Path]) -> None:
    """Decode the images once, as the host's own error would not tell an image at fault from a model at fault."""
    try:
        for image in images:
            with Image.open(image) as opened:
                opened.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise UnreadableImageError("an image cannot be read") from error
