"""Tasks of the package reasoning-gym: generated questions, each with an answer that can be verified.

    make_task("reasoning-gym:chain_sum")
    make_task("reasoning-gym:chain_sum+gcd")

Stojanovski et al. 2025, https://arxiv.org/abs/2505.24760. Item i of a data set is drawn from seed + i, so data sets
of neighbouring seeds have nearly all items in common: there is one data set, and a hash of the question says what is
held out.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Iterable
from typing import Any, Literal, get_args

from envs.tokens.phrases import PhraseTokenizer, phrases_of
from envs.tokens.text import TextTask
from envs.tokens.tokenizer import Tokenizer

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
TokenKind = Literal["bytes", "phrases"]
_EXAMPLES = 64  # questions of each data set that say which words are common to all


@dataclasses.dataclass(frozen=True)
class ReasoningGym(TextTask):
    """Questions of a data set, or of several. Raises ValueError, in one line, for unknown data sets and options, and
    where the package is not installed."""

    dataset: str = "spell_backward"
    """name of the data set; several are joined by a plus sign"""
    options: str = ""
    """its settings, such as max_terms=3,max_digits=1, with the name in front where there are several data sets, such as
    chain_sum.max_terms=3; empty: the package's own"""
    tokens: TokenKind = "bytes"
    """bytes; or phrases: the words that all questions of a data set have in common are one token, of any of the data
    sets, so that prompts are short and models of one data set can read all"""
    prompt_tokens: int = 0
    """most tokens of a question; 0: as many as the longest of the bank has"""
    response_tokens: int = 16
    """most tokens of an answer, its end included"""

    def __post_init__(self):
        for name in self.names:
            if name not in DATASETS:
                near = difflib.get_close_matches(name, DATASETS, n=1)
                hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(DATASETS)}"
                raise ValueError(f"unknown data set {name!r} of reasoning-gym: {hint}")
        if self.tokens not in get_args(TokenKind):
            known = " or ".join(get_args(TokenKind))
            raise ValueError(f"tokens must be {known}, got {self.tokens!r}")
        if self.tokens == "phrases" and (self.tokenizer or self.system):
            raise ValueError(
                "--tokens phrases are of our own: a published model's --tokenizer has others"
            )
        _ = self.entries

    @property
    def names(self) -> list[str]:
        """The names of the data sets."""
        return self.dataset.split("+")

    @functools.cached_property
    def codec(self) -> Tokenizer:
        """Bytes, bytes and phrases, or the tokens of a published model."""
        return super().codec if self.tokens == "bytes" else phrase_tokenizer()

    @functools.cached_property
    def entries(self) -> dict[str, tuple[Any, dict[str, Any]]]:
        """The data set and the entry of each question."""
        settings = _settings(self.options, self.names)
        found: dict[str, tuple[Any, dict[str, Any]]] = {}
        for name in self.names:
            made = _made(name, self.bank, self.bank_seed, settings[name])
            found |= {entry["question"]: (made, entry) for entry in made}
        return found

    def source(self, question: str) -> str:
        """Returns the name of the data set that a question is from."""
        return self.entries[question][1]["metadata"]["source_dataset"]

    def texts(self) -> Iterable[str]:
        """Returns the questions of the data sets."""
        return self.entries

    def check(self, question: str, answer: str) -> float:
        """Returns the data set's own score. Some pay in part for an answer that contains the right one; that is wrong
        all the same, and earns nothing but under the reward "process"."""
        made, entry = self.entries[question]
        return float(made.score_answer(answer, entry))

    def solve(self, question: str) -> str:
        """Returns the data set's answer."""
        return self.entries[question][1]["answer"]


@functools.lru_cache(1)
def phrase_tokenizer() -> PhraseTokenizer:
    """Returns the tokenizer of all data sets: bytes, and the words that all questions of one have in common. Raises
    ValueError, in one line, where the package is not installed."""
    sets = (_made(name, _EXAMPLES, 0, {}) for name in DATASETS)
    return PhraseTokenizer(phrases_of([entry["question"] for entry in made] for made in sets))


def _made(name: str, size: int, seed: int, settings: dict[str, int]) -> Any:
    """Returns a data set. Raises ValueError, in one line."""
    try:
        import reasoning_gym
    except ImportError:
        raise ValueError(
            f"{PREFIX}{name} needs the package reasoning-gym: pip install 'stride-rl[text]'"
        ) from None
    try:
        return reasoning_gym.create_dataset(name, size=size, seed=seed, **settings)
    except (AssertionError, TypeError) as error:
        shown = ",".join(f"{key}={value}" for key, value in settings.items())
        raise ValueError(f"options {shown} do not fit {name}: {error}") from None


def _settings(text: str, names: list[str]) -> dict[str, dict[str, int]]:
    """Returns the settings of each data set that a text names. Raises ValueError, in one line."""
    found: dict[str, dict[str, int]] = {name: {} for name in names}
    for part in filter(None, text.split(",")):
        key, _, value = (x.strip() for x in part.partition("="))
        name, dot, field = key.rpartition(".")
        if not field.isidentifier() or not value.lstrip("-").isdecimal():
            raise ValueError(f"options must be name=number,name=number, got {text!r}")
        if not dot and len(names) > 1:
            raise ValueError(
                f"options of several data sets are written {names[0]}.{field}=number, got {text!r}"
            )
        if dot and name not in found:
            raise ValueError(f"options name {name!r}, and the data sets are {', '.join(names)}")
        found[name or names[0]][field] = int(value)
    return found
