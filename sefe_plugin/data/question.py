"""The question of a test record whose dataset entry is not at hand."""

from collections.abc import Mapping

from sefe_plugin.data.layout import TAGS


#: Columns that may hold a question, CoIN's and the host's first.
_COLUMNS = ("text", "instruction", "question", "prompt", "problem")
_MESSAGES = ("conversations", "messages")
_USERS = (TAGS["user_tag"], "user")


def question_in_record(record: Mapping) -> str | None:
    """Return the question of a record in one of the usual layouts; None where there is none.

    Of several turns it is the last question.

    Example:
        >>> question_in_record({"text": "What is it?", "answer": "dog"})
        'What is it?'
        >>> question_in_record({"messages": [{"role": "user", "content": "Why?"}]})
        'Why?'
    """
    for column in _COLUMNS:
        if isinstance(record.get(column), str):
            more = record.get("input") if column == "instruction" else None
            return f"{record[column]}\n{more}" if isinstance(more, str) and more else record[column]
    for column in _MESSAGES:
        turns = record.get(column)
        for turn in reversed(turns if isinstance(turns, list) else []):
            if isinstance(turn, dict) and turn.get("role", turn.get(TAGS["role_tag"])) in _USERS:
                text = turn.get("content", turn.get(TAGS["content_tag"]))
                return text if isinstance(text, str) else None
    return None
