"""Asking a model, many requests at once, until each has a usable reply or has had its tries."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from sefe_plugin.asd.assembly import Texts
from sefe_plugin.asd.writer.generators import Generator, NoReplyError, Reply, UnreadableImageError
from sefe_plugin.asd.writer.journal import Journal, request_key
from sefe_plugin.asd.writer.questions import Chosen, Entry, Request
from sefe_plugin.asd.writer.replies import read_json_reply, read_plain_reply
from sefe_plugin.asd.writer.templates import Prompts


_READERS = {"json": read_json_reply, "plain": read_plain_reply}


@dataclass
class Interview:
    """A conversation with a model about many samples.

    Each request is a conversation: a reply that lacks some entries is answered by what is wrong with them, until all
    have their texts or the tries are used up. Every reply is first looked up in the journal and, when it is new,
    written there before it is read.

    Attributes:
        generator: The model.
        journal: Its replies so far.
        prompts: Holds the text that asks for a correction.
        replies: "json" or "plain".
        tries: How many replies a request may take.
        accept: Takes a sample, what it needed and its texts, as soon as they are there.
        failures: Reasons why samples went without texts, counted.
        asked: Number of new replies.
    """

    generator: Generator
    journal: Journal
    prompts: Prompts
    replies: str
    tries: int
    accept: Callable[[Chosen, Entry, Texts], None]
    failures: Counter = field(default_factory=Counter)
    asked: int = 0
    _silent: int = 0
    _total: int = 0

    def run(self, groups: Sequence[list[Chosen]], write: Callable[[list[Chosen]], Request]) -> None:
        """Ask about all groups of samples, `generator.concurrency` requests at a time.

        Args:
            groups: Samples that share a request.
            write: Writes the request for a group when its turn comes.

        Raises:
            ConnectionError: Where the server refuses every request, or none of many in a row got a reply.
        """
        self._total = len(groups)
        asyncio.run(self._run(groups, write))

    async def _run(self, groups: Sequence[list[Chosen]], write: Callable[[list[Chosen]], Request]) -> None:
        waiting = iter(groups)
        with tqdm(total=len(groups), unit=" requests", desc="Asking") as bar:
            async with self.generator.session() as reply:

                async def work() -> None:
                    for group in waiting:
                        await self._ask(group, write, reply)
                        bar.set_postfix(failed=self.failures.total(), refresh=False)
                        bar.update()

                await asyncio.gather(*(work() for _ in range(self.generator.concurrency)))

    async def _ask(self, group: list[Chosen], write: Callable[[list[Chosen]], Request], reply: Reply) -> None:
        try:
            request = write(group)
        except UnreadableImageError as error:
            self.failures[str(error)] += len(group)
            return
        entries, turns, reason = dict(request.entries), [request.prompt], "no usable reply"
        for _ in range(self.tries):
            try:
                text = await self._reply(request, turns, reply)
            except NoReplyError as error:
                reason = str(error)
                break
            found, faults = _READERS[self.replies](text, entries)
            for number, texts in found.items():
                self.accept(request.chosen[number], entries.pop(number), texts)
            if not entries:
                return
            turns += [text, self.prompts.correct(faults)]
        self.failures[reason] += len(entries)

    async def _reply(self, request: Request, turns: list[str], reply: Reply) -> str:
        indices = [sample.index for sample in request.chosen.values()]
        style, images = request.chosen[1].style, [image.name for image in request.images]
        key = request_key(self.generator.model, self.generator.options, style, indices, images, turns)
        text = self.journal.get(key)
        if text is not None:
            self._silent = 0
            return text
        try:
            text = await reply(turns, request.images)
        except UnreadableImageError:
            raise
        except NoReplyError as error:
            self._count_silence(error)
            raise
        self.journal.add(key, indices, style, text)
        self.asked, self._silent = self.asked + 1, 0
        return text

    def _count_silence(self, error: NoReplyError) -> None:
        """Give up where nothing is answered at all, rather than fall back to rules for a whole dataset.

        A reply in the journal is an answer like a new one, so that a build gives up no earlier when it is repeated.
        """
        self._silent += 1
        if self._silent >= min(2 * self.generator.concurrency + 8, self._total):
            raise ConnectionError(
                f"{self._silent} requests in a row got no reply, the last: {error}. What was answered is kept: start "
                "the same command again when the model is back"
            )
