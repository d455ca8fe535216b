"""The link between two nodes: each proves that it has the secret of the run, and signs every message.

The first node is F, another one O; `|` joins texts, and `sign` is HMAC-SHA256 with the secret::

    O -> F   a random text o
    F -> O   a random text f, and sign(first | o | f)
    O -> F   its rank and recipe, and sign(other | o | f | rank | recipe)
    F -> O   messages, numbered from 0, each with its signature by the key sign(messages | o | f)

A message of another link, an earlier one sent again, or one that was changed has a signature that does not fit. What
does not fit is refused, and the link with it. The secret itself is never sent.
"""

import contextlib
import hmac
import json
import os
import secrets
import socket
import stat
from collections.abc import Container
from pathlib import Path
from typing import Any, NamedTuple

from sefe_plugin.files import parse_json
from sefe_plugin.recipe.errors import RecipeError
from sefe_plugin.run.folder import SECRET_FILE


#: Environment variable with the secret of a run; without it the first node makes one in the run folder.
SECRET = "SEFE_SECRET"  # noqa: S105 - the name of the variable

_SHORTEST = 16
#: Seconds that the other side has for its part of the greeting, and the longest line that is read of it.
_GREETING_TIME, _LONGEST = 10.0, 4096


class ForeignError(Exception):
    """The other side is no node of this run, or a message is not from it."""


class Secret(NamedTuple):
    """The secret of one run.

    Attributes:
        text: It.
        file: The file that holds it; None where it is from the environment.
    """

    text: str
    file: Path | None = None

    @staticmethod
    def file_in(folder: Path) -> Path:
        """Return where a run folder keeps the secret."""
        return folder / SECRET_FILE

    @classmethod
    def of_run(cls, folder: Path, create: bool = False) -> "Secret | None":
        """Return the secret from the environment or from the run folder.

        Args:
            folder: The run folder.
            create: Whether to make a new one in the folder, for its owner alone, if the environment has none.

        Returns:
            None if there is none.

        Raises:
            RecipeError: If the one of the environment is too short, or the file is another user's or open to others.
        """
        text, file = os.environ.get(SECRET), cls.file_in(folder)
        if text is not None:
            if len(text) < _SHORTEST:
                raise RecipeError("This run", [f"{SECRET} must have at least {_SHORTEST} characters. Take a longer."])
            return cls(text)
        if create:
            return cls._made(file)
        try:
            with file.open(encoding="ascii") as content:
                about = os.fstat(content.fileno())
                text = content.read().strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError("This run", [f"{file} cannot be read: {error}. Set {SECRET} on every node."]) from None
        if about.st_uid != os.getuid() or stat.S_IMODE(about.st_mode) & 0o077 or len(text) < _SHORTEST:
            rule = "must be readable for you alone, as the first node of a run makes it"
            raise RecipeError("This run", [f"{file} {rule}. Remove it, or set {SECRET} alike on every node."])
        return cls(text, file)

    @classmethod
    def _made(cls, file: Path) -> "Secret":
        text, temporary = secrets.token_hex(32), file.with_name(f"{file.name}.tmp")
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        # never open to others, not even for a moment
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as content:
            content.write(text)
        temporary.replace(file)
        return cls(text, file)

    def remove(self) -> None:
        """Remove the file."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)

    def sign(self, *parts: str) -> str:
        """Return the signature of texts."""
        return _sign(self.text, *parts)


def _sign(key: str, *parts: str) -> str:
    return hmac.new(key.encode(), json.dumps(parts).encode(), "sha256").hexdigest()


def _fits(sign: str, expected: str) -> bool:
    return hmac.compare_digest(sign.encode(errors="replace"), expected.encode())


class Link:
    """A connection of two nodes that know each other.

    Args:
        lines: The connection.
        key: Of its messages.
    """

    def __init__(self, lines: "_Lines", key: str):
        self._lines, self._key, self._count = lines, key, 0

    def send(self, message: dict[str, Any]) -> None:
        """Send the next message.

        Raises:
            OSError: If the other side is gone.
        """
        body = json.dumps(message)
        self._lines.send({"body": body, "sign": _sign(self._key, str(self._count), body)})
        self._count += 1

    def receive(self) -> dict[str, Any]:
        """Wait for the next message.

        Raises:
            ForeignError: If it is not from the other side, or was sent before.
            OSError: If the other side is gone.
        """
        body, sign = self._lines.receive("body", "sign")
        if not _fits(sign, _sign(self._key, str(self._count), body)):
            raise ForeignError("a message has not the signature of the run, or was sent before.")
        self._count += 1
        return json.loads(body)

    def wait_for_close(self, seconds: float) -> None:
        """Wait until the other side has closed the connection."""
        self._lines.wait_for_close(seconds)

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()


def welcome(connection: socket.socket, secret: Secret, recipe: str, ranks: Container[int]) -> tuple[Link, int]:
    """On the first node: greet a node that has connected.

    Args:
        connection: From it.
        secret: Of the run.
        recipe: What its recipe must be.
        ranks: The ranks that may join.

    Returns:
        The link, and its rank.

    Raises:
        ForeignError: If it has not the secret, or another recipe.
        OSError: If it is silent or gone.
    """
    lines = _Lines(connection)
    (other,) = lines.receive("random")
    first = secrets.token_hex(32)
    lines.send({"random": first, "sign": secret.sign("first", other, first)})
    rank, others_recipe, sign = lines.receive("rank", "recipe", "sign")
    if not _fits(sign, secret.sign("other", other, first, rank, others_recipe)):
        raise ForeignError("it has not the secret of this run.")
    if not rank.isdecimal() or int(rank) not in ranks:
        raise ForeignError(f"NODE_RANK={rank} is not that of another node.")
    link = Link(lines.ready(), secret.sign("messages", other, first))
    link.send({"recipe": recipe})
    if others_recipe != recipe:
        raise ForeignError(f"the node with NODE_RANK={rank} was started with another recipe.")
    return link, int(rank)


def join(connection: socket.socket, secret: Secret, recipe: str, rank: int) -> Link:
    """On another node: greet the first.

    Args:
        connection: To it.
        secret: Of the run.
        recipe: This node's.
        rank: This node's.

    Raises:
        ForeignError: If the other side has not the secret.
        RecipeError: If it has another recipe.
        OSError: If it is silent or gone.
    """
    lines = _Lines(connection)
    try:
        other = secrets.token_hex(32)
        lines.send({"random": other})
        first, sign = lines.receive("random", "sign")
        if not _fits(sign, secret.sign("first", other, first)):
            raise ForeignError("what listens there has not the secret of this run")
        sign = secret.sign("other", other, first, str(rank), recipe)
        lines.send({"rank": str(rank), "recipe": recipe, "sign": sign})
        link = Link(lines, secret.sign("messages", other, first))
        if link.receive() != {"recipe": recipe}:
            rule = "the recipe and its `key=value` overrides must be equal on all nodes; the first node has others"
            raise RecipeError("This node", [f"{rule}. Start the same command on every node."])
        lines.ready()
    except BaseException:
        lines.close()
        raise
    return link


class _Lines:
    """Mappings of texts over a connection, one a line, as JSON.

    Args:
        connection: It; each read has a limited time until `ready`.
    """

    def __init__(self, connection: socket.socket):
        self._socket = connection
        self._socket.settimeout(_GREETING_TIME)
        self._reader = connection.makefile("rb")

    def ready(self) -> "_Lines":
        """Wait without end from now on, but notice when the other machine is gone."""
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 6)):
            if hasattr(socket, option):  # not on every system
                self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        return self

    def send(self, texts: dict[str, str]) -> None:
        self._socket.sendall(json.dumps(texts).encode() + b"\n")

    def receive(self, *names: str) -> list[str]:
        line = self._reader.readline(_LONGEST)
        if not line:
            raise ConnectionResetError("the connection was closed")
        try:
            texts = parse_json(line)
        except ValueError:
            texts = None
        if not isinstance(texts, dict) or texts.keys() != set(names) or {type(t) for t in texts.values()} != {str}:
            raise ForeignError("it does not speak as a node of a run does.")
        return [texts[name] for name in names]

    def wait_for_close(self, seconds: float) -> None:
        self._socket.settimeout(seconds or 0.01)
        with contextlib.suppress(OSError):
            self._reader.read(1)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.close()
        self._socket.close()
