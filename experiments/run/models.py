"""The flag `--model DIR` of token runs: published weights that the policy starts from.

Layers, width and the other sizes are the model's; a flag that says otherwise is refused. Its vocabulary must be the
task's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.console.flags import dashed
from experiments.weights import folder as weights

HELP = "--model DIR starts from published weights (a folder with config.json and model.safetensors), of whatever size."
_SIZES = ("layers", "width", "heads", "kv_heads", "mlp_width", "rope_base", "tied")


def split_flag(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """Returns a command line without `--model DIR`, and that folder's absolute path or None. Raises ValueError where
    the flag has no value."""
    rest: list[str] = []
    model = None
    words = iter(argv)
    for word in words:
        name, given, value = word.partition("=")
        if name != "--model":
            rest.append(word)
            continue
        value = value if given else next(words, "")
        if not value or value.startswith("--"):
            raise ValueError("--model needs the folder of a published model")
        model = str(Path(value).absolute())
    return rest, model


def with_sizes(config: Any, folder: Path) -> Any:
    """Returns a learner's settings with the sizes of a folder's model. Raises ValueError, in one line, where it holds
    none."""
    transformer = weights.load_config(folder).transformer
    sizes = {name: getattr(transformer, name) for name in _SIZES}
    try:
        return dataclasses.replace(config, **sizes)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def refuse_other_sizes(config: Any, folder: Path) -> None:
    """Raises ValueError, in one line, where settings have other sizes than a folder's model."""
    transformer = weights.load_config(folder).transformer
    for name in _SIZES:
        wanted, has = getattr(config, name), getattr(transformer, name)
        if wanted != has:
            shown = {True: f"--{dashed(name)}", False: f"--no-{dashed(name)}"}
            flag = shown[wanted] if name == "tied" else f"--{dashed(name)} {wanted}"
            raise ValueError(f"{flag} contradicts the model in {folder}, which has {has}")


def begin(algo: Any, folder: Path) -> Any:
    """Returns a learner whose policy starts from a folder's model.

    Raises ValueError, in one line, where the folder holds none, its tokens are not the task's, or its context is too
    short.
    """
    names = weights.tokenizer_names(folder)
    words = algo.env.task.vocabulary
    if names is not None and names != dict(enumerate(words)):
        differ = sorted(
            i for i in {*names, *range(len(words))} if names.get(i) != dict(enumerate(words)).get(i)
        )
        theirs = repr(names[differ[0]]) if differ[0] in names else "absent"
        ours = repr(words[differ[0]]) if differ[0] < len(words) else "absent"
        raise ValueError(
            f"{folder} has another vocabulary than the task: token {differ[0]} is {theirs} there and {ours} here"
        )
    given = weights.load(folder)
    try:
        return algo.starting_from(given.published.transformer, given.params)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
