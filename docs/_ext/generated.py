"""Directives that write reference tables from the code, so that no page copies a setting by hand.

```{settings} agents.ppo.PPOConfig        fields of a dataclass, as flags: default and meaning
```{presets} ppo                           what environments change of an algorithm's defaults
```{source} agents.ppo.update              the source of a function, a method or a class
```{published} ppo                         returns from the published records
```{environments}                          every registered environment, or those of `:names:`
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import itertools
import statistics
import textwrap
import typing
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("settings", Settings)
    app.add_directive("presets", Presets)
    app.add_directive("source", Source)
    app.add_directive("environments", Environments)
    app.add_directive("published", Published)
    return {"parallel_read_safe": True}


class _Generated(SphinxDirective):
    """A directive whose body is Markdown or reStructuredText made here."""

    def table(self, head: tuple[str, ...], widths: tuple[int, ...], rows: list[tuple[str, ...]]):
        """A table whose cells are plain text with `code` in backticks."""
        group = nodes.tgroup(cols=len(head))
        group += [nodes.colspec(colwidth=w) for w in widths]
        group += nodes.thead("", self._row(head))
        group += nodes.tbody("", *(self._row(row) for row in rows))
        return nodes.table("", group)

    def _row(self, cells: tuple[str, ...]) -> nodes.row:
        return nodes.row("", *(nodes.entry("", _paragraph(cell)) for cell in cells))


def _paragraph(text: str) -> nodes.paragraph:
    parts = text.split("`")
    return nodes.paragraph(
        "",
        "",
        *(nodes.literal("", t) if i % 2 else nodes.Text(t) for i, t in enumerate(parts) if t),
    )


class Settings(_Generated):
    """The fields of a dataclass of settings. `:own:` leaves out what it inherits."""

    required_arguments = 1
    option_spec = {"own": directives.flag}

    def run(self):
        cls = resolve(self.arguments[0])
        self.env.note_dependency(inspect.getsourcefile(cls))
        own = set(inspect.get_annotations(cls)) if "own" in self.options else None
        helps = field_helps(cls)
        rows = []
        for field in dataclasses.fields(cls):
            if own is not None and field.name not in own:
                continue
            if field.name not in helps:
                raise self.error(f"{self.arguments[0]}: the field {field.name} has no docstring")
            rows.append((_flag(cls, field), f"`{_default(field)}`", helps[field.name]))
        return [self.table(("flag", "default", "meaning"), (26, 16, 58), rows)]


class Presets(_Generated):
    """Lists what `experiments.run.presets` changes of an algorithm's defaults, environment by environment."""

    required_arguments = 1
    option_spec = {"tokens": directives.flag}

    def run(self):
        from agents import ALGORITHMS, TOKEN_ALGORITHMS
        from experiments.run import presets

        name = self.arguments[0]
        self.env.note_dependency(presets.__file__)
        tokens = "tokens" in self.options
        config_type = (TOKEN_ALGORITHMS if tokens else ALGORITHMS)[name].Config
        rows: dict[str, list[str]] = {}
        for env in _preset_names(tokens):
            text = _changes(presets.preset(env, name, config_type), config_type())
            if text:
                rows.setdefault(text, []).append(f"`{env}`")
        table = [(", ".join(envs), text) for text, envs in rows.items()]
        if not table:
            return [nodes.paragraph("", "Every environment uses these defaults.")]
        return [self.table(("environment", "settings that differ"), (30, 70), table)]


class Source(SphinxDirective):
    """The source of an object, with the name of its file."""

    required_arguments = 1

    def run(self):
        target = resolve(self.arguments[0])
        path = Path(inspect.getsourcefile(target))
        self.env.note_dependency(str(path))
        code = textwrap.dedent(inspect.getsource(target)).rstrip()
        block = nodes.literal_block(code, code, language="python")
        caption = nodes.caption("", f"{path.relative_to(ROOT)}: {self.arguments[0]}")
        return [
            nodes.container(
                "", caption, block, literal_block=True, classes=["literal-block-wrapper"]
            )
        ]


class Published(_Generated):
    """Final returns of an algorithm with default settings, from the records under results/."""

    required_arguments = 1

    def run(self):
        from experiments import overview

        seeds: dict[str, list[dict[str, Any]]] = {}
        for record in overview.all_records():
            if record["algo"] == self.arguments[0]:
                seeds.setdefault(record["env"], []).append(record)
        rows = []
        for env, found in seeds.items():
            finals = sorted(record["final"]["mean"] for record in found)
            spread = f"{finals[0]:.4g} to {finals[-1]:.4g}" if len(finals) > 1 else ""
            steps = f"{found[0]['env_steps']:,}"
            rows.append((env, f"{statistics.median(finals):.4g}", spread, str(len(finals)), steps))
        head = ("environment", "median return", "lowest to highest", "seeds", "steps a seed")
        caption = nodes.paragraph("", "Published returns of the deterministic policy at the end:")
        return [caption, self.table(head, (30, 18, 22, 10, 20), rows)]


class Environments(_Generated):
    """Registered environments with their spaces and time limits; `:options:` lists their options as well."""

    option_spec = {"names": directives.unchanged, "options": directives.flag}

    def run(self):
        import envs
        from experiments.console import options
        from experiments.envs import space_text

        chosen = self.options.get("names", "").split() or envs.names()
        rows = []
        for name in chosen:
            env = envs.make(name)
            row = (
                f"`{name}`",
                space_text(env.observation_space),
                space_text(env.action_space),
                str(env.max_episode_steps),
            )
            takes = ", ".join(f"`{o.name}`" for o in options.options(envs.factory(name)))
            rows.append((*row, takes))
        head = ("name", "observation", "actions", "limit", "options")
        return [self.table(head, (26, 14, 14, 8, 38), rows)]


def resolve(name: str) -> Any:
    """The object with this dotted name. Raises ImportError or AttributeError if there is none."""
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:i]))
        except ModuleNotFoundError as error:
            if error.name and not name.startswith(error.name):
                raise
            continue
        for part in parts[i:]:
            found = (
                inspect.getattr_static(found, part)
                if inspect.isclass(found)
                else getattr(found, part)
            )
        return found
    raise ImportError(f"there is no {name}")


def field_helps(cls: type) -> dict[str, str]:
    """The string that follows each field of a dataclass, in one line; a subclass's goes before its base's."""
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body
        for node, after in itertools.pairwise(body):
            named = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
            if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[node.target.id] = " ".join(str(after.value.value).split())
    return found


def _flag(cls: type, field: dataclasses.Field) -> str:
    kind = typing.get_type_hints(cls, include_extras=True)[field.name]
    dashed = field.name.replace("_", "-")
    if "Positional" in repr(kind) or "_POSITIONAL" in repr(kind):
        return f"`{dashed.upper()}`"
    if kind is bool:
        return f"`--{dashed}`, `--no-{dashed}`"
    return f"`--{dashed}`"


def _default(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return _shown(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return _shown(field.default_factory())
    return "required"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return str(value)


def _preset_names(tokens: bool) -> list[str]:
    import envs

    prefix = "tokens-"
    return [
        n for n in envs.names() if n.startswith(prefix) == tokens and not n.startswith("probe-")
    ]


def _changes(config: Any, default: Any) -> str:
    changed = (
        (f.name, getattr(config, f.name))
        for f in dataclasses.fields(config)
        if getattr(config, f.name) != getattr(default, f.name)
    )
    return ", ".join(f"`--{name.replace('_', '-')} {_shown(value)}`" for name, value in changed)
