"""Writes the policy of a run as a folder of published weights.

python -m experiments.tokens --export NEW --run DIR
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from agents.tokens import lora
from agents.tokens.published_config import Storage, family_of
from envs.tokens import Task, TextTask, published_tokenizer
from envs.tokens.published_tokenizer import PublishedTokenizer
from envs.tokens.tokenizer import BYTES
from experiments.console.display import Display
from experiments.console.flags import parse_flags
from experiments.run.spec import load_state, open_run
from experiments.weights import adapter, tokenizer_files
from experiments.weights import folder as weights


@dataclasses.dataclass(frozen=True)
class ExportFlags:
    """Flags of `--export`."""

    export: Path
    """the folder that is written, in Hugging Face's format: config.json, model.safetensors, tokenizer.json"""
    run: Path
    """folder of the run whose policy is exported"""
    storage: Storage = "float32"
    """type of the numbers in the file"""
    adapter: bool = False
    """write the low-rank adapters alone, in PEFT's format, not the model that they are merged into"""
    seed_index: int = 0
    """index of the seed among the run's seeds, from 0"""
    trust: bool = False
    """execute the files that the run names, even if they changed or another user began the run"""


def asked(argv: Sequence[str]) -> bool:
    """True where a command line asks for an export instead of a training."""
    return any(word == "--export" or word.startswith("--export=") for word in argv)


def command(argv: Sequence[str]) -> int:
    """Writes the folder; returns the exit code. Raises OSError and ValueError with one line on bad input."""
    flags = parse_flags(ExportFlags, argv, None, "Writes a run's policy as published weights.")
    if flags.export.exists():
        raise ValueError(f"{flags.export} is there already: name a new folder")
    display = Display()
    stored, algo = open_run(flags.run, flags.trust)
    if stored.domain != "tokens":
        raise ValueError(f"{flags.run} is a run of control, which has no language model")
    if not 0 <= flags.seed_index < stored.seeds:
        raise ValueError(
            f"{flags.run} has {stored.seeds} seeds, there is no index {flags.seed_index}"
        )
    states, _, steps = load_state(flags.run, stored, algo, display.warn)
    policy = jax.tree.map(lambda x: x[flags.seed_index], states.params["policy"])
    env, config = algo.env, algo.model_config
    if flags.adapter:
        adapter.write(flags.export, config, policy, stored.model, flags.storage)
        display.say(f"wrote the adapters of env step {steps} to {flags.export}")
        return 0
    config, policy = lora.merged(config, policy)
    weights.export(
        flags.export,
        config,
        policy,
        stops=env.task.stops,
        pad=env.pad,
        storage=flags.storage,
        tokenizer=_tokenizer(env.task),
    )
    display.say(f"wrote the policy of env step {steps} to {flags.export}: {family_of(config)}")
    return 0


def _tokenizer(task: Task) -> list[Path] | dict[str, Any]:
    """The files of a published tokenizer, or the content of tokenizer.json."""
    if not isinstance(task, TextTask):
        return tokenizer_files.of_words(task.vocabulary)
    codec = task.codec
    if isinstance(codec, PublishedTokenizer):
        return published_tokenizer.files(codec.folder)
    return tokenizer_files.of_bytes() if codec == BYTES else []
