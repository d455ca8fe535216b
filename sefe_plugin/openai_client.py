"""The client of servers that speak OpenAI's protocol: one way to connect, to ask again and to say what went wrong."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any


#: A conversation as the protocol has it: mappings with "role" and "content".
Messages = Sequence[dict[str, Any]]


class NoReplyError(Exception):
    """A request got no reply, however often it was sent; the message holds nothing that a server wrote."""


class NoTextError(NoReplyError):
    """The server answered, but without a text."""


class RefusedOptionError(ConnectionError):
    """The server takes no request with one of the options."""


def address_fault(base_url: str | None) -> str | None:
    """Say what is wrong with a server's address, as a clause whose subject it is and which does not repeat it.

    Example:
        >>> address_fault("http://localhost:8000/v1") is None, address_fault("localhost:8000")
        (True, 'must begin with http:// or https://')
    """
    if base_url and ("@" in base_url or "?" in base_url):
        return "must hold no password and no query; use OPENAI_API_KEY for the key"
    if base_url and not base_url.startswith(("http://", "https://")):
        return "must begin with http:// or https://"
    return None


class OpenAIClient:
    """A model behind a server that speaks OpenAI's protocol.

    A request without an answer (connection, time, status 408, 409, 429, 5xx) is sent again after growing pauses, or
    those that the server asks for. The key comes from the variable OPENAI_API_KEY alone.

    Args:
        model: Name of the model on the server.
        base_url: Address of the server up to `/v1`; None takes OPENAI_BASE_URL, or OpenAI's own.
        extra: The extra of this package that brings the `openai` package, for messages.
        needs_key: Whether OPENAI_API_KEY must be set; a server of one's own may do without.
        timeout: Seconds to wait for one answer.
        retries: How often a request without an answer is sent again.
        options: What is sent with every request, such as `max_tokens`; what is None is left to the server.

    Raises:
        ImportError: Without the `openai` package.
        ValueError: If the address is none, or holds a password or a query, which would be a secret outside the
            environment; or without a key that is needed.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        extra: str,
        needs_key: bool = False,
        timeout: float = 120.0,
        retries: int = 5,
        **options: Any,
    ):
        try:
            import openai
        except ImportError as error:
            raise ImportError(f"asking a server needs: pip install 'sefe-plugin[{extra}]'") from error
        if fault := address_fault(base_url):
            raise ValueError(f"the server's address {fault}")
        if needs_key and not os.environ.get("OPENAI_API_KEY"):
            raise ValueError("put the server's key into OPENAI_API_KEY; any text for a server without keys")
        self.model = model
        self.options = {name: value for name, value in options.items() if value is not None}
        self._openai = openai
        self._connection = {"base_url": base_url, "timeout": timeout, "max_retries": retries}

    @property
    def address(self) -> str:
        """The server's address, for messages; one from the environment is not told, since it may hold a secret."""
        url = self._connection["base_url"]
        return f"{url.rstrip('/')}/" if url else "the address in OPENAI_BASE_URL, or OpenAI's,"

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Callable[[Messages], Awaitable[str]]]:
        """Connect while the context lasts, and yield the function that asks; its errors are those of `asker`."""
        async with self._openai.AsyncOpenAI(api_key=_key(), **self._connection) as client:

            async def ask(messages: Messages) -> str:
                with self._errors():
                    return _text(await client.chat.completions.create(**self._request(messages)))

            yield ask

    def asker(self) -> Callable[[Messages], str]:
        """Return a function that asks; several threads may call it at once.

        It raises NoReplyError where this request gets no reply, and ConnectionError where no request would get one
        (RefusedOptionError for one of the options).
        """
        client = self._openai.OpenAI(api_key=_key(), **self._connection)

        def ask(messages: Messages) -> str:
            with self._errors():
                return _text(client.chat.completions.create(**self._request(messages)))

        return ask

    def _request(self, messages: Messages) -> dict[str, Any]:
        return {"model": self.model, "messages": messages, **self.options}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Put our own errors in the place of the client's, whose texts may repeat the key."""
        openai = self._openai
        try:
            yield
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise ConnectionError(
                f"the server refuses every request with status {error.status_code}; check the address, the model "
                f"{self.model!r} and OPENAI_API_KEY"
            ) from None
        except openai.BadRequestError as error:
            if not any(name in error.message for name in self.options):
                # this request alone may be at fault: too long, or with an image that the server cannot read
                raise NoReplyError("status 400") from None
            text, key = error.message, os.environ.get("OPENAI_API_KEY")
            raise RefusedOptionError(
                f"the server does not take such requests: {text.replace(key, '(key)') if key else text}"
            ) from None
        except openai.APIStatusError as error:
            raise NoReplyError(f"status {error.status_code}") from None
        except openai.APITimeoutError:
            raise NoReplyError("no answer in time") from None
        except (openai.OpenAIError, ValueError) as error:
            raise NoReplyError(type(error).__name__) from None


def _key() -> str:
    # servers of one's own need no key, but the client does
    return os.environ.get("OPENAI_API_KEY") or "none"


def _text(completion: Any) -> str:
    try:
        text = completion.choices[0].message.content
    except (AttributeError, IndexError, TypeError):
        text = None
    if not isinstance(text, str):
        raise NoTextError("an answer without a text")
    return text
