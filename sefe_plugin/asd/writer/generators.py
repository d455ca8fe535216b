"""Who writes the texts that no rule can: the interface, and any server that speaks OpenAI's protocol."""

import asyncio
import base64
import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from sefe_plugin.openai_client import NoReplyError, OpenAIClient, RefusedOptionError


#: Takes a conversation (user and assistant in turn, the user first and last) and the images that belong to its first
#: turn; returns the reply or raises `NoReplyError`.
Reply = Callable[[Sequence[str], Sequence[Path]], Awaitable[str]]


class UnreadableImageError(NoReplyError):
    """A request could not even be sent, for one of its images; this tells nothing of the model."""


class Generator(Protocol):
    """A model that replies.

    Attributes:
        model: Its name; replies of one model are never taken for another's.
        options: What else its replies depend on, as JSON knows it; replies under other options are asked for anew.
        concurrency: How many requests may be under way at once.
    """

    model: str
    options: Mapping[str, Any]
    concurrency: int

    def session(self) -> AbstractAsyncContextManager[Reply]:
        """Make ready, yield the function that replies, and tidy up."""
        ...


class OpenAIGenerator:
    """A model behind a server that speaks OpenAI's protocol (`OpenAIClient`).

    Args:
        model: Name of the model on the server.
        base_url: Address of the server up to `/v1`; None takes OPENAI_BASE_URL, or OpenAI's own.
        concurrency: How many requests may be under way at once.
        timeout: Seconds to wait for one answer.
        retries: How often a request without an answer is sent again.
        max_tokens: Longest reply, in tokens; None leaves it to the server.
        temperature: Sampling temperature; 0 takes the likeliest token, None leaves it to the server.

    Raises:
        ImportError: Without the `openai` package.
        ValueError: Where the address holds a password or a query, which would be a secret outside the environment.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        concurrency: int = 16,
        timeout: float = 120.0,
        retries: int = 5,
        max_tokens: int | None = 2048,
        temperature: float | None = 0.0,
    ):
        self._client = OpenAIClient(
            model,
            base_url,
            extra="asd",
            timeout=timeout,
            retries=retries,
            max_tokens=max_tokens,
            temperature=temperature,
        )
        self.model, self.options, self.concurrency = model, self._client.options, concurrency

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Reply]:
        """Connect while the context lasts."""
        async with self._client.session() as ask:

            async def reply(turns: Sequence[str], images: Sequence[Path]) -> str:
                messages = await asyncio.to_thread(_messages, turns, images) if images else _messages(turns, ())
                try:
                    return await ask(messages)
                except RefusedOptionError as error:
                    raise ConnectionError(
                        f"{error}; change --max-tokens or --temperature, or leave them to the server with the value "
                        "`none`"
                    ) from None

            yield reply


def _messages(turns: Sequence[str], images: Sequence[Path]) -> list[dict]:
    parts = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in images]
    first = {"role": "user", "content": [*parts, {"type": "text", "text": turns[0]}] if parts else turns[0]}
    others = [
        {"role": ("user", "assistant")[number % 2], "content": turn} for number, turn in enumerate(turns[1:], start=1)
    ]
    return [first, *others]


def _data_url(image: Path) -> str:
    try:
        content = image.read_bytes()
    except OSError as error:
        raise UnreadableImageError("an image cannot be read") from error
    kind = mimetypes.guess_type(image.name)[0] or "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
