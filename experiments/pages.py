"""The pages of published results, in Markdown: a row for each run, or tables of algorithms and environments."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from experiments import evaluate, published
from experiments.console import duration, si
from experiments.published import Comparison
from experiments.records import wall_clocks
from experiments.runs import short_commit
from experiments.spec import short_name

Record = dict[str, Any]
Column = tuple[str, Callable[[dict[str, Any]], str]]  # heading, and how a summary fills it

# By which a page is known as written here: its title may be any.
_RUNS_BEGIN, _SUITE_BEGIN = (
    "![learning curves](curves.png)",
    "Returns: median over seeds (lowest to highest)",
)

_RETURN: Column = ("return", lambda s: f"{s['eval_return_mean']:.1f} ± {s['eval_return_std']:.1f}")
_GAIT: tuple[Column, ...] = (  # of runs with a gait report
    ("survival", lambda s: f"{s['survival_rate']:.1%}"),
    ("distance", lambda s: _number(s["distance_m"], ".2f", " m")),
    ("alternation", lambda s: _number(_gait(s, "alternation"), ".3f")),
    (
        "duty right, left",
        lambda s: ", ".join(_number(_gait(s, f"duty_{side}"), ".2f") for side in ("right", "left")),
    ),
    ("flight", lambda s: _number(_gait(s, "flight"), ".1%")),
    ("walks", lambda s: _yes_or_no(_gait(s, "walks"))),
)
_TOKENS: tuple[Column, ...] = (  # of runs on token tasks
    ("pass@1", lambda s: f"{s['pass_at_1']:.3f}, from {s['pass_at_1_start']:.3f}"),
    ("pass@8", lambda s: f"{s['pass_at_8']:.3f}, from {s['pass_at_8_start']:.3f}"),
    ("KL to reference", lambda s: f"{s['kl_to_reference']:.2f} nats"),
    ("parameters", lambda s: f"{s['parameters'] / 1e3:.0f} k"),
    ("tokens/s in training", lambda s: f"{s['tokens_per_second'] / 1e3:.1f} k"),
)
_COST: tuple[Column, ...] = (
    ("env steps", lambda s: f"{s['env_steps'] / 1e6:.2f} M"),
    ("wall clock", lambda s: f"{s['wall_clock_s']:.0f} s"),
    ("of it compiling", lambda s: f"{s['compile_s']:.0f} s"),
    ("steps/s in training", lambda s: f"{s['steps_per_second'] / 1e3:.1f} k"),
)

_AGAINST = (
    "Ours is the IQM over seeds by the metric of the published number (with three seeds or fewer that is the mean), "
    "with the best number of each metric that is known here. Above: the published number is below our interval; "
    "below: it is above it; within: otherwise. The interval is a percentile bootstrap over seeds; with two seeds it "
    "is their range and with one there is none, so that these verdicts say little; with three it is hardly more than "
    "the range."
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


def is_ours(text: str) -> bool:
    """Whether `of_runs` or `of_suite` wrote it."""
    title, *rest = text.split("\n", 3)
    return (
        title.startswith("# ") and len(rest) > 1 and rest[1].startswith((_RUNS_BEGIN, _SUITE_BEGIN))
    )


def of_runs(
    title: str, labels: list[str], configs: list[dict[str, Any]], summaries: list[dict[str, Any]]
) -> str:
    """A row for each run."""
    has_gait = any(summary.get("gait") for summary in summaries)
    of_tokens = all("task" in summary for summary in summaries)
    columns = (_RETURN, *(_GAIT if has_gait else ()), *(_TOKENS if of_tokens else ()), *_COST)
    lines = [f"# {title}", "", _RUNS_BEGIN, ""]
    lines += _table("run", columns, dict(zip(labels, summaries, strict=True)))
    episodes = _episodes(summary["eval_episodes"] for summary in summaries)
    what = "Return, survival and gait" if has_gait else "Return"
    how = f"{what} over {episodes} fresh starts, deterministic policy; "
    if of_tokens:
        how = (
            f"Over {episodes} samples, 8 of each held-out prompt, at the temperature of training; "
        )
    lines += [
        "",
        f"{how}"
        "± is the standard deviation over episodes. Wall clock from the first compilation to the last evaluation.",
        "",
    ]
    lines += [f"- {line}" for line in dict.fromkeys(_made_by(config) for config in configs)]
    lines += ["- settings and evaluated returns of every run: runs.json", ""]
    return "\n".join(lines)


def of_suite(title: str, records: list[Record], pictures: dict[str, str], notes: str = "") -> str:
    """Tables of algorithms (rows) and environments (columns). `pictures`: environment to the file of its curves;
    `notes`: what a person has to say about the figures."""
    cells: dict[tuple[str, str], list[Record]] = {}
    for r in records:
        cells.setdefault((r["algo"], r["env"]), []).append(r)
    counts = {len(seeds) for seeds in cells.values()}
    varied = len(counts) > 1
    episodes = _episodes(r["final"]["episodes"] for r in records)
    how = f"the trained, deterministic policy over {episodes} fresh starts"
    if _of_tokens(records):
        how = f"{episodes} responses to held-out prompts, sampled at the temperature of training"

    def spread(value: Callable[[Record], float | None]) -> dict[tuple[str, str], str]:
        return {at: _spread([value(r) for r in seeds], varied) for at, seeds in cells.items()}

    of_seeds = "; n: the number of seeds" if varied else f"; {_count(counts.pop(), 'seed')} each"
    tables = {
        "Final evaluation": (
            f"Mean return of {how}.",
            spread(lambda r: r["final"]["mean"]),
        ),
        "Best evaluation": (
            "The highest of the evaluations made during training, the final one included: of fewer episodes each.",
            spread(lambda r: r["best"][1] if r["best"] else None),
        ),
        "Last 100 training episodes": (
            "Mean return with the exploration that training had in the end.",
            spread(lambda r: r["train_return_last_100"]),
        ),
        "Environment steps": ("Of each seed.", {at: _steps(s) for at, s in cells.items()}),
        "Wall clock": (
            "Of one run, from the first compilation to the last evaluation: median over runs (shortest to longest). "
            "The seeds of a run train side by side.",
            {at: _wall_clock(seeds) for at, seeds in cells.items()},
        ),
    }
    lines = [f"# {title}", "", f"{_SUITE_BEGIN}{of_seeds}.", ""]
    for heading, (what, texts) in tables.items():
        lines += [f"## {heading}", "", what, "", *_grid(texts), ""]
    lines += _gait_tables(cells)
    lines += _token_tables(cells)
    lines += against_published(records)
    lines += ["## Notes", "", notes.strip(), ""] if notes.strip() else []
    lines += ["## Learning curves", "", "Median and interquartile range over seeds.", ""]
    lines += [f"![{short_name(env)}]({picture})" for env, picture in pictures.items()]
    lines += ["", "## How they were made", ""]
    lines += [f"- {line}" for line in dict.fromkeys(_made_by(r) for r in records)]
    lines += ["- settings, evaluations and training curves of every seed: records.json", "", "```"]
    lines += [*dict.fromkeys(r["command"] for r in records), "```", ""]
    return "\n".join(lines)


def _token_tables(cells: dict[tuple[str, str], list[Record]]) -> list[str]:
    told = {at: [r["report"] for r in seeds] for at, seeds in cells.items() if _of_tokens(seeds)}
    if not told:
        return []
    rows = {
        f"{short_name(env)}, {algo}": {
            "seeds": str(len(found)),
            "pass@1": _from_to(found, "pass_at_1"),
            "pass@8": _from_to(found, "pass_at_8"),
            "KL to reference": f"{_median(found, 'kl_to_reference'):.2f} nats",
        }
        for (algo, env), found in told.items()
    }
    columns = tuple((name, operator.itemgetter(name)) for name in next(iter(rows.values())))
    what = "Of samples at the temperature of training, to held-out prompts; after imitation, and in the end; medians."
    return ["## Correct responses", "", what, "", *_table("task, algorithm", columns, rows), ""]


def _of_tokens(seeds: list[Record]) -> bool:
    return all("pass_at_1" in (r["report"] or {}) for r in seeds)


def _from_to(found: list[dict[str, Any]], key: str) -> str:
    ends = sorted(r[key] for r in found)
    spread = f" ({ends[0]:.3f} to {ends[-1]:.3f})" if len(ends) > 1 else ""
    return f"{_median(found, key + '_start'):.3f}, then {_median(found, key):.3f}{spread}"


def _median(found: list[dict[str, Any]], key: str) -> float:
    return float(np.median([r[key] for r in found]))


def _gait_tables(cells: dict[tuple[str, str], list[Record]]) -> list[str]:
    reports = {
        at: [r["report"] for r in seeds if r["report"] and "gait" in r["report"]]
        for at, seeds in cells.items()
    }
    lines: list[str] = []
    for env in dict.fromkeys(env for (_, env), found in reports.items() if found):
        mean = {
            a: evaluate.mean_of(found) for (a, e), found in reports.items() if found and e == env
        }
        what = "Mean over seeds; ± is the standard deviation over episodes."
        lines += [f"## Gait, {short_name(env)}", "", what, ""]
        lines += [*_table("algorithm", (_RETURN, *_GAIT), mean), ""]
    return lines


def against_published(records: list[Record]) -> list[str]:
    """A section; no line where nothing of it has been published."""
    compared, alone = published.against(records)
    if not compared:
        return []
    lines = ["## Against published numbers", "", _AGAINST, ""]
    names = {c.best.metric: published.METRICS[c.best.metric] for c in compared}
    lines += [f"- {name}: {what}" for name, what in names.items()]
    lines += [""]
    lines += ["| " + " | ".join(_BESIDE) + " |", "|---" * len(_BESIDE) + "|"]
    lines += ["| " + " | ".join(_beside(c)) + " |" for c in compared]
    lines += ["", _share(compared), ""]
    sources = dict.fromkeys(c.best.source for c in compared)
    lines += [f"- {source}: {published.SOURCES[source]}." for source in sources]
    if any(published.task(c.env)[1] != c.best.version for c in compared):
        lines += [f"- {_VERSIONS}"]
    if alone:
        lacking = ", ".join(f"{algo} on {short_name(env)}" for env, algo in alone)
        lines += [f"- No published number is known here for {lacking}."]
    return [*lines, ""]


def _beside(c: Comparison) -> tuple[str, ...]:
    interval = f"{_figure(c.low)} to {_figure(c.high)}" if c.seeds > 1 else "-"
    return (
        short_name(c.env),
        c.algo,
        c.best.metric,
        _figure(c.value),
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


def _table(corner: str, columns: tuple[Column, ...], rows: dict[str, dict[str, Any]]) -> list[str]:
    lines = [f"| {corner} | " + " | ".join(name for name, _ in columns) + " |"]
    lines += ["|---" * (len(columns) + 1) + "|"]
    for label, summary in rows.items():
        lines.append(f"| {label} | " + " | ".join(cell(summary) for _, cell in columns) + " |")
    return lines


def _grid(texts: dict[tuple[str, str], str]) -> list[str]:
    """`texts` by (row, column); what is not there is a dash."""
    rows = sorted({row for row, _ in texts})
    columns = sorted({column for _, column in texts})
    lines = ["| algorithm | " + " | ".join(map(short_name, columns)) + " |"]
    lines += ["|---" * (len(columns) + 1) + "|"]
    for row in rows:
        lines.append(f"| {row} | " + " | ".join(texts.get((row, c), "-") for c in columns) + " |")
    return lines


def _spread(values: list[float | None], with_count: bool) -> str:
    """The median, the range, and of how many."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    text = _figure(float(np.median(known)))
    notes = [f"{_figure(min(known))} to {_figure(max(known))}"] if len(known) > 1 else []
    notes += [f"n={len(known)}"] if with_count else []
    return f"{text} ({', '.join(notes)})" if notes else text


def _figure(x: float) -> str:
    return f"{x:.1f}" if abs(x) >= 10 else f"{x:.2f}"


def _count(n: int, what: str) -> str:
    return f"one {what}" if n == 1 else f"{n} {what}s"


def _steps(seeds: list[Record]) -> str:
    return " or ".join(dict.fromkeys(si(r["env_steps"]) for r in seeds))


def _wall_clock(seeds: list[Record]) -> str:
    """Of the runs in which the seeds were trained."""
    found = sorted(wall_clocks(seeds).values())
    middle = duration(float(np.median(found)))
    if len(found) == 1:
        return middle
    return f"{middle} ({duration(found[0])} to {duration(found[-1])})"


def _made_by(config: dict[str, Any]) -> str:
    machine, versions = config["machine"], config["versions"]
    packages = ", ".join(f"{k} {v}" for k, v in versions.items() if v and k != "stride-rl")
    return (
        f"commit {short_commit(config['commit'])}; {machine['cpu']}, {machine['cores']} cores, "
        f"device {machine['device']}; {packages}"
    )


def _gait(summary: dict[str, Any], name: str) -> float | None:
    return summary["gait"][name] if summary.get("gait") else None


def _yes_or_no(share: float | None) -> str:
    """`share` of the seeds; of one seed it is a bool."""
    if share is None:
        return "-"
    return {0.0: "no", 1.0: "yes"}.get(float(share), "in part")


def _number(x: float | None, form: str, unit: str = "") -> str:
    return "-" if x is None else f"{x:{form}}{unit}"


def _episodes(numbers: Iterable[int]) -> str:
    """64, 64 or 128, 512 to 625."""
    found = sorted(set(numbers))
    return f"{found[0]} to {found[-1]}" if len(found) > 2 else " or ".join(map(str, found))
