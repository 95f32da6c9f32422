"""What several multiple-choice benchmarks share."""

from __future__ import annotations

from collections.abc import Callable

from pelican.benchmarks.base import Context, Grade, Question, graded_as
from pelican.benchmarks.replies import Reply

LETTER_DIRECTLY = "Answer with the option's letter from the given choices directly."


def by_letter(read: Callable[[str], str]) -> Callable[[Question, Reply, Context], Grade]:
    """Right if the letter that `read` finds in the reply is the truth's."""

    def grade(question: Question, reply: Reply, context: Context) -> Grade:
        letter = read(reply.text)
        return graded_as(letter == question.truth, letter)

    return grade
