"""The five answer styles of SEFE and the response-format line that asks for each.

Source: SEFE (arXiv 2505.02486), section on Answer Style Diversification. The paper's response-format prompts are
not published; the multiple-choice and short-answer lines are CoIN's own, the other three are this project's.
"""

YES_NO = "yes_no"
MULTIPLE_CHOICE = "multiple_choice"
SHORT_ANSWER = "short_answer"
BRIEF = "brief_explanation"
DETAILED = "detailed_explanation"

#: Style name -> the last line of a question that asks for an answer in this style.
FORMAT_LINES: dict[str, str] = {
    YES_NO: "Answer the question with yes or no.",
    MULTIPLE_CHOICE: "Answer with the option's letter from the given choices directly.",
    SHORT_ANSWER: "Answer the question using a single word or phrase.",
    BRIEF: "Answer the question with a brief explanation.",
    DETAILED: "Answer the question with a detailed explanation.",
}

#: All five styles, in the paper's order.
STYLES: tuple[str, ...] = tuple(FORMAT_LINES)

#: The two styles whose answers are sentences.
EXPLANATIONS: tuple[str, ...] = (BRIEF, DETAILED)
