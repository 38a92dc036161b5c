"""Tasks of the package reasoning-gym: generated questions, each with an answer that can be verified.

    make_task("reasoning-gym:chain_sum")

Stojanovski et al. 2025, https://arxiv.org/abs/2505.24760. Item i of a data set is drawn from seed + i, so data sets
of neighbouring seeds have nearly all items in common: there is one data set, and a hash of the question says what is
held out.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Iterable
from typing import Any

from envs.tokens.text import TextTask

PREFIX = "reasoning-gym:"
# Those with short answers, whose scorers compare texts: some of the others evaluate an answer as Python.
DATASETS = (
    "base_conversion",
    "chain_sum",
    "count_bits",
    "gcd",
    "lcm",
    "number_sequence",
    "products",
    "spell_backward",
)


@dataclasses.dataclass(frozen=True)
class ReasoningGym(TextTask):
    """Questions of a data set. Raises ValueError, in one line, for unknown data sets and options, and where the package
    is not installed."""

    dataset: str = "spell_backward"
    """name of the data set"""
    options: str = ""
    """its settings, such as max_terms=3,max_digits=1; empty: the package's own"""
    prompt_tokens: int = 0
    """most tokens of a question; 0: as many as the longest of the bank has"""
    response_tokens: int = 16
    """most tokens of an answer, its end included"""

    def __post_init__(self):
        if self.dataset not in DATASETS:
            near = difflib.get_close_matches(self.dataset, DATASETS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(DATASETS)}"
            raise ValueError(f"unknown data set {self.dataset!r} of reasoning-gym: {hint}")
        _ = self.entries

    @functools.cached_property
    def entries(self) -> tuple[Any, dict[str, dict[str, Any]]]:
        """The data set, and its entries by their questions."""
        try:
            import reasoning_gym
        except ImportError:
            raise ValueError(
                f"{PREFIX}{self.dataset} needs the package reasoning-gym: pip install 'stride-rl[text]'"
            ) from None
        try:
            made = reasoning_gym.create_dataset(
                self.dataset, size=self.bank, seed=self.bank_seed, **_settings(self.options)
            )
        except (AssertionError, TypeError) as error:
            raise ValueError(f"options {self.options} do not fit {self.dataset}: {error}") from None
        return made, {entry["question"]: entry for entry in made}

    def texts(self) -> Iterable[str]:
        """Returns the data set's questions."""
        return self.entries[1]

    def check(self, question: str, answer: str) -> float:
        """Returns the data set's own score. Some pay in part for an answer that contains the right one; that is wrong
        all the same, and earns nothing but under the reward "process"."""
        made, entries = self.entries
        return float(made.score_answer(answer, entries[question]))

    def solve(self, question: str) -> str:
        """Returns the data set's answer."""
        return self.entries[1][question]["answer"]


def _settings(text: str) -> dict[str, int]:
    """The settings that a text names. Raises ValueError, in one line."""
    found = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if not name.strip().isidentifier() or not value.strip().lstrip("-").isdecimal():
            raise ValueError(f"options must be name=number,name=number, got {text!r}")
        found[name.strip()] = int(value)
    return found
