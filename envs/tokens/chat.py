"""Chat templates of published models: a question, and optionally a system's text, to what the model continues.

A template is a program in Jinja that comes with somebody's model. It runs in a sandbox: it can read its arguments, and
reach nothing else. It is given no clock, so prompts are the same on every day.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

TEMPLATE = "chat_template.jinja"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")

Render = Callable[[str, str], str]  # (question, text of the system, empty: none) to the prompt


def read_template(folder: Path, fields: Mapping[str, Any]) -> str | None:
    """Returns the chat template of a model's folder, None where it has none.

    Args:
      fields: the content of tokenizer_config.json. A template in chat_template.jinja goes before one in there; of
        several, the one called "default" is taken.

    Raises ValueError, in one line, where it cannot be read.
    """
    file = folder / TEMPLATE
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from None
    found = fields.get("chat_template")
    if isinstance(found, list):
        named = {x.get("name"): x.get("template") for x in found if isinstance(x, dict)}
        found = named.get("default")
    if found is not None and not isinstance(found, str):
        raise ValueError(f"{folder}: chat_template is no text")
    return found


def renderer(folder: Path, template: str, fields: Mapping[str, Any]) -> Render:
    """Returns the function that writes prompts by a template.

    Args:
      fields: the content of tokenizer_config.json: names of special tokens, which templates use.

    Raises ValueError, in one line, where the package jinja2 is missing or the template is none; the function raises it
    where the template does.
    """
    try:
        import jinja2
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise ValueError(
            f"the chat template of {folder} needs the package jinja2: pip install 'stride-rl[text]', or --no-chat"
        ) from None
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    special = {name: text for name in _SPECIAL if (text := token_text(fields.get(name)))}
    try:
        compiled = environment.from_string(template)
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template of {folder} is none: {_one_line(error)}") from None

    def render(question: str, system: str) -> str:
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": question})
        try:
            return compiled.render(messages=messages, add_generation_prompt=True, **special)
        except Exception as error:  # whatever a stranger's program may do
            raise ValueError(
                f"the chat template of {folder} raised {_one_line(error)}: change --system, or take --no-chat"
            ) from None

    return render


def token_text(value: Any) -> str | None:
    """Returns a special token's text as tokenizer_config.json has it: a string, or a table with its content."""
    found = value.get("content") if isinstance(value, dict) else value
    return found if isinstance(found, str) else None


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    # Jinja's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise ValueError(message)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
