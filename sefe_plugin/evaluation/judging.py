"""A language model that rates answers, behind a server that speaks OpenAI's protocol."""

from collections.abc import Callable

from sefe_plugin.openai_client import NoReplyError, NoTextError, OpenAIClient


#: The extra of this package that brings the client.
EXTRA = "judge"

_SYSTEM = "You are a careful examiner who compares answers with their solutions."
_MAX_TOKENS = 20


def open_judge(model: str, base_url: str | None = None, needs_key: bool = False) -> Callable[[str], str]:
    """Connect to the judge's server.

    Args:
        model: The judge's name on the server.
        base_url: The server's address; by default `OPENAI_BASE_URL`, or OpenAI's own server.
        needs_key: Whether there must be a key in `OPENAI_API_KEY`.

    Returns:
        A function that sends a request and returns the reply; nothing where the judge gave no text. It raises
        ValueError where the server does not answer.

    Raises:
        ValueError: If the client is not installed, a needed key is missing, or the address is wrong or holds a secret.
    """
    try:
        client = OpenAIClient(
            model, base_url, extra=EXTRA, needs_key=needs_key, temperature=0.0, max_tokens=_MAX_TOKENS
        )
    except ImportError as error:
        raise ValueError(str(error)) from error
    send = client.asker()

    def ask(request: str) -> str:
        try:
            return send([{"role": "system", "content": _SYSTEM}, {"role": "user", "content": request}])
        except NoTextError:
            return ""
        except (NoReplyError, ConnectionError) as error:
            raise ValueError(f"the judge {model!r} at {client.address} does not answer: {error}") from error

    return ask
