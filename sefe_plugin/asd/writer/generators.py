"""Who writes the texts that no rule can: the interface, and any server that speaks OpenAI's protocol."""

import asyncio
import base64
import mimetypes
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol


#: Takes a conversation (user and assistant in turn, the user first and last) and the images that belong to its first
#: turn; returns the reply or raises `NoReplyError`.
Reply = Callable[[Sequence[str], Sequence[Path]], Awaitable[str]]


class NoReplyError(Exception):
    """A request got no reply, however often it was sent; the message holds nothing that a server wrote."""


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
    """A model behind a server that speaks OpenAI's protocol.

    A request without an answer (connection, time, status 408, 409, 429, 5xx) is sent again after growing pauses, or
    those that the server asks for. The key comes from the variable OPENAI_API_KEY alone.

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
        try:
            import openai
        except ImportError as error:
            raise ImportError("the generator `openai` needs: pip install 'sefe-plugin[asd]'") from error
        if base_url and ("@" in base_url or "?" in base_url):
            raise ValueError("the server's address must hold no password and no query; use OPENAI_API_KEY for the key")
        self.model, self.concurrency = model, concurrency
        options = {"max_tokens": max_tokens, "temperature": temperature}
        self.options = {name: value for name, value in options.items() if value is not None}
        self._openai = openai
        self._client = {"base_url": base_url, "timeout": timeout, "max_retries": retries}

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Reply]:
        """Connect while the context lasts."""
        # Servers of one's own need no key, but the client does.
        key = os.environ.get("OPENAI_API_KEY") or "none"
        async with self._openai.AsyncOpenAI(api_key=key, **self._client) as client:

            async def reply(turns: Sequence[str], images: Sequence[Path]) -> str:
                messages = await asyncio.to_thread(_messages, turns, images) if images else _messages(turns, ())
                return await self._send(client, messages)

            yield reply

    async def _send(self, client, messages: list[dict]) -> str:
        openai = self._openai
        try:
            completion = await client.chat.completions.create(model=self.model, messages=messages, **self.options)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            # The server's own words may repeat the key.
            raise ConnectionError(
                f"the server refuses every request with status {error.status_code}; check the address, the model "
                f"{self.model!r} and OPENAI_API_KEY"
            ) from None
        except openai.BadRequestError as error:
            if not any(name in error.message for name in self.options):
                # This request alone may be at fault: too long, or with an image that the server cannot read.
                raise NoReplyError("status 400") from None
            text, key = error.message, os.environ.get("OPENAI_API_KEY")
            raise ConnectionError(
                f"the server does not take such requests: {text.replace(key, '(key)') if key else text}; change "
                "--max-tokens or --temperature, or leave them to the server with the value `none`"
            ) from None
        except openai.APIStatusError as error:
            raise NoReplyError(f"status {error.status_code}") from None
        except openai.APITimeoutError:
            raise NoReplyError("no answer in time") from None
        except (openai.OpenAIError, ValueError) as error:
            raise NoReplyError(type(error).__name__) from None
        try:
            text = completion.choices[0].message.content
        except (AttributeError, IndexError, TypeError):
            text = None
        if not isinstance(text, str):
            raise NoReplyError("an answer without a text")
        return text


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
