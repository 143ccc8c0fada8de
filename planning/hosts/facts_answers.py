"""What scripts/facts.sh prints, before anybody interprets it. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

MARKER = "inference-stack facts 1"
"""Stands alone on the line before the JSON: a user's shell may print a greeting first."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a command on the host said."""

    rc: int = 0
    """124: it was ended because it took too long."""
    out: str = ""
    err: str = ""
    absent: bool = False
    """The program, or the file, isn't there. It is neither "it said nothing" nor "nobody could look"."""


class BrokenAnswers(Exception):
    """The script's output is not whole."""


@dataclass(frozen=True)
class Answers:
    """Answers by question, and what turned out to be unreadable on the way."""

    answers: Mapping[str, Answer]
    problems: list[str] = field(default_factory=list)

    def problem(self, line: str) -> None:
        """Each once, however often the same answer is looked at."""
        line = " ".join(line.split())
        if line not in self.problems:
            self.problems.append(line)

    def raw(self, question: str) -> Answer:
        """The answer, for those who judge its exit status themselves."""
        answer = self.answers.get(question)
        if answer is None:
            self.problem(f"the host's answer to {question!r} is missing")
            return Answer(absent=True)
        return answer

    def is_absent(self, question: str) -> bool:
        return self.raw(question).absent

    def text(self, question: str, what: str, *, absent_is_problem: bool = True) -> str:
        """stdout of a command that worked, else "" and a problem that names `what` could not be read."""
        answer = self.raw(question)
        if answer.absent:
            if absent_is_problem:
                self.problem(f"{what}: not on this host")
            return ""
        if answer.rc:
            self.problem(f"{what}: {why(answer)}")
            return ""
        return answer.out

    def lines(self, question: str, what: str, *, absent_is_problem: bool = True) -> list[str]:
        """The lines of `text` that aren't empty, without white space around them."""
        text = self.text(question, what, absent_is_problem=absent_is_problem)
        return [line.strip() for line in text.splitlines() if line.strip()]


def why(answer: Answer) -> str:
    """In one line, why a command failed."""
    if answer.rc == 124:
        return "no answer in time"
    said = [line.strip() for line in (answer.err or answer.out).splitlines() if line.strip()]
    return said[-1][:200] if said else f"ended with {answer.rc}, and said nothing"


def read_answers(output: str) -> dict[str, Answer]:
    """The answers in the script's output. Raises BrokenAnswers."""
    before, marker, after = output.partition(f"{MARKER}\n")
    if not marker:
        said = " ".join(before.split())[:200]
        raise BrokenAnswers(f"the script of facts didn't run; the host said: {said or 'nothing'}")
    try:
        raw = json.loads(after)
        return {name: Answer(**answer) for name, answer in raw.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise BrokenAnswers(f"the host's answers were cut off or garbled: {error}") from error
