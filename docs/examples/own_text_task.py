"""A task in text: python -m experiments.tokens --task docs/examples/own_text_task.py:Backwards --algo grpo"""

import dataclasses

from envs.tokens import TextTask


@dataclasses.dataclass(frozen=True)
class Backwards(TextTask):
    """A word, to be spelled backwards."""

    letters: int = 3
    """letters of a word"""
    prompt_tokens: int = 8
    response_tokens: int = 6

    def question(self, rng):
        return "".join(rng.choice([*"abcdef"], self.letters)) + " ="

    def check(self, question, answer):
        return answer == self.solve(question)

    def solve(self, question):
        return question.split()[0][::-1]
