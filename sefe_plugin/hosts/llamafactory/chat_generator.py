"""The host's own chat engine as the author of other answer styles: no server, the very model that is tuned."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from sefe_plugin.asd.pictures import PictureError, small_picture
from sefe_plugin.asd.writer.generators import NoReplyError, Reply, UnreadableImageError
from sefe_plugin.hosts.llamafactory.host import read_recipe


_PLACEHOLDER = "<image>\n"
_SIDE = 64


class ChatGenerator:
    """A model in this process, run by the host's chat engine; it is loaded when the first request is due.

    Args:
        config: YAML file with the host's arguments for a chat: `model_name_or_path`, `template`, and possibly
            `adapter_name_or_path`, `infer_backend` and generating arguments such as `max_new_tokens`. It may `include`
            another.
        concurrency: How many requests may be under way at once; more than 1 is of use to the engines that batch.

    Raises:
        ValueError: Where the file cannot be read, or names no model.
    """

    def __init__(self, config: Path, concurrency: int = 1):
        arguments = read_recipe(config, [])
        if "model_name_or_path" not in arguments:
            raise ValueError(f"{config} must be a YAML file with `model_name_or_path`, as for `llamafactory-cli chat`")
        self.model = str(arguments["model_name_or_path"])
        # Random draws would make a build that was interrupted differ from one that was not.
        self.options = {"do_sample": False, **arguments}
        self.concurrency = concurrency
        self._config = config

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Reply]:
        """Load the model; it stays until the context ends."""
        from llamafactory.chat import ChatModel

        try:
            chat = ChatModel(dict(self.options))
        except Exception as error:  # of any kind, by what the configuration asks for
            raise ValueError(f"{self._config}: the host cannot load the model {self.model!r}: {error}") from error

        async def reply(turns: Sequence[str], images: Sequence[Path]) -> str:
            await asyncio.to_thread(_check, images)
            first = _PLACEHOLDER * len(images) + turns[0]
            messages = [
                {"role": ("user", "assistant")[number % 2], "content": turn}
                for number, turn in enumerate([first, *turns[1:]])
            ]
            paths = [str(image) for image in images] or None
            try:
                responses = await asyncio.to_thread(chat.chat, messages, images=paths)
            except Exception as error:  # the memory, a template, a text: it may be this conversation alone
                raise NoReplyError(f"the host fails with {type(error).__name__}: {error!s:.80}") from error
            return responses[0].response_text

        yield reply


def _check(images: Sequence[Path]) -> None:
    """Decode the images once, as the host's own error would not tell an image at fault from a model at fault."""
    try:
        for image in images:
            small_picture(image, _SIDE)
    except PictureError as error:
        raise UnreadableImageError("an image cannot be read") from error
