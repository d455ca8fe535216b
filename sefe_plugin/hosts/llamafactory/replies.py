"""What of a generated reply is the answer: nothing that the host's template adds to it, and no thought."""

import re
from functools import cache

from llamafactory.data.template import ReasoningTemplate, Template
from transformers import PreTrainedTokenizerBase


#: How models mark a thought, whatever their template says.
_THOUGHT = ("<think>", "</think>")
#: A text that no template adds.
_MARK = "\ue000"


class Replies:
    """Turns generated tokens into text, and the text into the answer that is scored.

    Args:
        template: the host's.
        tokenizer: the model's, as the template has fixed it.
    """

    def __init__(self, template: Template, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        own = tuple(word.strip() for word in template.thought_words)
        self._thoughts = tuple(dict.fromkeys([own, _THOUGHT])) if all(own) else (_THOUGHT,)
        slots = template.format_assistant.apply(content=_MARK)
        written = "".join(slot for slot in slots if isinstance(slot, str))
        self._head, _, self._tail = (part.strip() for part in written.partition(_MARK))
        # special tokens do not belong to an answer, but may mark where a thought ends
        words = tokenizer.encode("".join(own), add_special_tokens=False)
        self._is_dropped = cache(self._drops)
        self._marks = frozenset(filter(self._is_dropped, words)) if isinstance(template, ReasoningTemplate) else ()

    def decode(self, tokens: list[int]) -> str:
        """Turn the tokens of a reply into text, without special tokens other than those that mark a thought."""
        if not self._marks:
            return self._tokenizer.decode(tokens, skip_special_tokens=True).strip()
        kept = [token for token in tokens if token in self._marks or not self._is_dropped(token)]
        return self._tokenizer.decode(kept, skip_special_tokens=False).strip()

    def answer(self, text: str) -> str:
        """Return the answer in a reply.

        A thought that the question has opened already counts as one. Where a thought has no end, there is no answer
        after it.

        Example: ``<think>A cube.</think> red``, ``A cube.</think> red`` and ``red`` all answer ``red``, and
        ``<think>A cube`` answers nothing.
        """
        # a template's head may stand before a thought of the training data, or after an empty one of its own
        text = text.strip().removeprefix(self._head)
        for start, end in self._thoughts:
            text = re.sub(f"{re.escape(start)}.*?{re.escape(end)}", "", text, flags=re.DOTALL)
            text = text.rpartition(end)[2].partition(start)[0]
        return text.strip().removeprefix(self._head).removesuffix(self._tail).strip()

    def _drops(self, token: int) -> bool:
        """Tell whether the tokenizer leaves a token out where it leaves special tokens out."""
        hidden, shown = (self._tokenizer.decode([token], skip_special_tokens=skip) for skip in (True, False))
        return hidden != shown
