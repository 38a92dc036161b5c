"""The section of a page that compares our records with published numbers, in Markdown."""

from __future__ import annotations

import math
from typing import Any

from experiments.analysis import literature, statistics
from experiments.analysis.literature import Comparison
from experiments.console.display import si
from experiments.pages import markdown
from experiments.run.names import short_names

_AGAINST = (
    "Ours is the IQM over seeds by the metric of the published number (with three seeds or fewer that is the mean), "
    "with the best number of each metric that is known here. Above: the published number is below our interval; "
    "below: it is above it; within: otherwise. The interval is a percentile bootstrap over seeds; with two seeds it "
    "is their range and with one there is none, so that these verdicts say little; with three it is hardly more than "
    f"the range. {statistics.coverage_note()}"
)
_MAXIMUM = (
    "Of max, a maximum over noisy evaluations, the bootstrap is biased upward: its interval lies too high, and "
    '"above" and "within" are the easier for it.'
)
_VERSIONS = (
    "Published numbers are of versions v2 to v4 of MuJoCo's tasks. v5 differs in rewards and healthy ranges for "
    "Walker2d, Ant and Humanoid, hardly for HalfCheetah and Hopper."
)
_BESIDE = (
    *("environment", "algorithm", "metric", "ours", "95% interval", "seeds", "published"),
    *("source, version", "steps, ours / theirs", "ours is"),
)
_BUDGET = {"fewer": ", fewer", "as many": "", "more": ", more"}


def against_published(records: list[dict[str, Any]]) -> list[str]:
    """Returns the section's lines; none where nothing of it has been published."""
    compared, alone = literature.against(records)
    if not compared:
        return []
    lines = ["## Against published numbers", "", _AGAINST, ""]
    names = {c.best.metric: literature.METRICS[c.best.metric] for c in compared}
    lines += [f"- {name}: {what}" for name, what in names.items()]
    lines += ["", _MAXIMUM] if "max" in names else []
    called = short_names(r["env"] for r in records)
    lines += ["", *markdown.table(_BESIDE, [_beside(c, called[c.env]) for c in compared])]
    lines += ["", _share(compared), ""]
    sources = dict.fromkeys(c.best.source for c in compared)
    lines += [f"- {source}: {literature.SOURCES[source]}." for source in sources]
    if any(literature.task(c.env)[1] != c.best.version for c in compared):
        lines += [f"- {_VERSIONS}"]
    if alone:
        lacking = ", ".join(f"{algo} on {called[env]}" for env, algo in alone)
        lines += [f"- No published number is known here for {markdown.inert(lacking)}."]
    return [*lines, ""]


def _beside(c: Comparison, env: str) -> tuple[str, ...]:
    interval = f"{figure(c.low)} to {figure(c.high)}" if c.seeds > 1 else "-"
    return (
        env,
        c.algo,
        c.best.metric,
        figure(c.value),
        f"{interval} (range)" if c.seeds == 2 else interval,
        str(c.seeds),
        f"{c.best.value:g}",
        f"{c.best.source}, {c.best.version}",
        f"{si(c.steps)} / {si(c.best.budget)}{_BUDGET[c.budget]}",
        c.verdict,
    )


def _share(compared: list[Comparison]) -> str:
    def share(of: list[Comparison]) -> str:
        reached = sum(c.verdict != "below" for c in of)
        return f"{reached} of {len(of)} ({reached / len(of):.0%})"

    text = f"At or above the published number (above or within): {share(compared)}"
    fair = [c for c in compared if c.budget != "more"]
    if fair and len(fair) < len(compared):
        text += f"; of those with no more steps than the published runs had: {share(fair)}"
    return f"{text}."


def figure(x: float) -> str:
    """Formats a return for a table; -inf denotes a seed that diverged."""
    if x == -math.inf:
        return "not finite"
    return f"{x:.1f}" if abs(x) >= 10 else f"{x:.2f}"
