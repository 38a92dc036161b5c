"""The pages of published results, in Markdown: a row for each run, or tables of algorithms and environments."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from experiments.analysis.literature import diverged
from experiments.console.display import duration, si
from experiments.evaluation import control
from experiments.pages import goals, markdown
from experiments.pages.against_literature import against_published, figure
from experiments.pages.offline import data_table, score_tables, subject
from experiments.run.names import short_names
from experiments.run.provenance import short_commit
from experiments.run.records import wall_clocks

Record = dict[str, Any]
Column = tuple[str, Callable[[dict[str, Any]], str]]  # heading, and how a summary fills it

# By which a page is known as written here: its title may be any.
_RUNS_BEGIN, _SUITE_BEGIN = (
    "![learning curves](curves.png)",
    "Returns: median over seeds (lowest to highest)",
)

_LEARNED = (
    "The true return, which the learner does not see, beside the reward that it learned from preferences: mean over "
    "seeds, and each seed."
)
_NOT_FINITE = "not finite"
_RETURN: Column = (
    "return",
    lambda s: (
        _NOT_FINITE
        if s["eval_return_mean"] is None
        else f"{s['eval_return_mean']:.1f} ± {_number(s['eval_return_std'], '.1f')}"
    ),
)
_GAIT: tuple[Column, ...] = (  # of runs with a gait report
    ("survival", lambda s: _number(s.get("survival_rate"), ".1%")),
    ("distance", lambda s: _number(s.get("distance_m"), ".2f", " m")),
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
    ("tokens/s in training", lambda s: markdown.thousands(s["tokens_per_second"])),
)
_COST: tuple[Column, ...] = (
    ("env steps", lambda s: markdown.millions(s["env_steps"])),
    ("wall clock", lambda s: f"{s['wall_clock_s']:.0f} s"),
    ("of it compiling", lambda s: f"{s['compile_s']:.0f} s"),
    ("steps/s in training", lambda s: markdown.thousands(s["steps_per_second"])),
)


def is_of_runs(text: str) -> bool:
    """Tells that `of_runs` wrote a page."""
    return _begins(text, _RUNS_BEGIN)


def is_of_suite(text: str) -> bool:
    """Tells that `of_suite` wrote a page."""
    return _begins(text, _SUITE_BEGIN)


def _begins(text: str, mark: str) -> bool:
    title, *rest = text.split("\n", 3)
    return title.startswith("# ") and len(rest) > 1 and rest[1].startswith(mark)


def of_runs(
    title: str, labels: list[str], configs: list[dict[str, Any]], summaries: list[dict[str, Any]]
) -> str:
    """Returns the page of single runs, a row for each."""
    has_gait = any(summary.get("gait") for summary in summaries)
    of_tokens = all("task" in summary for summary in summaries)
    noted = [summary.get("reached") for summary in summaries]
    columns = (
        _RETURN,
        *(_GAIT if has_gait else ()),
        *(_goals(noted) if has_gait else ()),
        *(_TOKENS if of_tokens else ()),
        *_COST,
    )
    lines = [f"# {markdown.inert(title)}", "", _RUNS_BEGIN, ""]
    lines += _table("run", columns, dict(zip(labels, summaries, strict=True)))
    episodes = _episodes(summary["eval_episodes"] for summary in summaries)
    what = "Return, survival and gait" if has_gait else "Return"
    how = f"{what} over {episodes} fresh starts, deterministic policy; "
    if of_tokens:
        how = f"Over {episodes} samples, 8 of each held-out prompt, at temperature 1; "
    lines += [
        "",
        f"{how}"
        "± is the standard deviation over episodes. Wall clock from the first compilation to the last evaluation.",
        *([goals.remark(noted)] if has_gait else []),
        "",
    ]
    lines += [markdown.item(by) for by in dict.fromkeys(map(_made_by, configs))]
    lines += ["- settings and evaluated returns of every run: runs.json", ""]
    return "\n".join(lines)


def of_suite(
    title: str,
    records: list[Record],
    pictures: dict[str, str],
    notes: str = "",
    learned: dict[str, str] | None = None,
) -> str:
    """Tables of algorithms (rows) and environments (columns). `pictures`: environment to the file of its curves;
    `notes`: what a person has to say about the figures; `learned`: as `pictures`, of rewards learned from
    preferences."""
    cells: dict[tuple[str, str], list[Record]] = {}
    for r in records:
        cells.setdefault((r["algo"], subject(r)), []).append(r)
    counts = {len(seeds) for seeds in cells.values()}
    varied = len(counts) > 1
    episodes = _episodes(r["final"]["episodes"] for r in records)
    how = f"the trained, deterministic policy over {episodes} fresh starts"
    if _of_tokens(records):
        how = f"{episodes} responses to held-out prompts, sampled at temperature 1"

    def spread(value: Callable[[Record], float | None]) -> dict[tuple[str, str], str]:
        return {
            at: _spread([_worst_if_diverged(r, value(r)) for r in seeds], varied)
            for at, seeds in cells.items()
        }

    called = short_names(map(subject, records))
    offline = all(r.get("unit") for r in records)
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
        ("Gradient steps" if offline else "Environment steps"): (
            "Taken by the run of each seed.",
            {at: _steps(s) for at, s in cells.items()},
        ),
        "Wall clock": (
            "Time of one run, from the first compilation to the last evaluation: median over runs (shortest to "
            "longest). The seeds of a run train side by side.",
            {at: _wall_clock(seeds) for at, seeds in cells.items()},
        ),
    }
    lines = [f"# {markdown.inert(title)}", "", f"{_SUITE_BEGIN}{of_seeds}.", ""]
    if lost := [r for r in records if diverged(r)]:
        lines += [
            f"{_count(len(lost), 'seed')} diverged, and counts as worse than any: not finite.",
            "",
        ]
    lines += score_tables(cells, called) + data_table(cells, called)
    for heading, (what, texts) in tables.items():
        if offline and set(texts.values()) == {"-"}:
            continue  # no episode was trained on
        lines += [f"## {heading}", "", what, "", *_grid(texts, called), ""]
    lines += _gait_tables(cells, called)
    lines += _token_tables(cells, called)
    lines += against_published(records)
    lines += ["## Notes", "", notes.strip(), ""] if notes.strip() else []
    lines += ["## Learning curves", "", "Median and interquartile range over seeds.", ""]
    lines += [markdown.picture(called[env], picture) for env, picture in pictures.items()]
    if learned:
        lines += ["", "## The learned reward", "", _LEARNED, ""]
        lines += [markdown.picture(called[env], picture) for env, picture in learned.items()]
    lines += ["", "## How they were made", ""]
    return "\n".join(lines + how_made(records))


def how_made(records: list[Record]) -> list[str]:
    """Returns the commands below the commit, the machine and the versions with which each of them was run."""
    commands: dict[str, dict[str, None]] = {}
    for r in records:
        commands.setdefault(_made_by(r), {})[r["command"]] = None
    lines = ["Settings, evaluations and training curves of every seed: records.json.", ""]
    for by, made in commands.items():
        lines += [markdown.item(by), "", *markdown.code(made), ""]
    return lines


def _worst_if_diverged(r: Record, value: float | None) -> float | None:
    """Returns the value, or the worst one for a seed that diverged: it is never judged by values from before."""
    return -math.inf if diverged(r) else value


def _token_tables(cells: dict[tuple[str, str], list[Record]], called: dict[str, str]) -> list[str]:
    shown = {at: [r["report"] for r in seeds] for at, seeds in cells.items() if _of_tokens(seeds)}
    if not shown:
        return []
    rows = {
        f"{called[env]}, {algo}": {
            "seeds": str(len(reports)),
            "pass@1": _from_to(reports, "pass_at_1"),
            "pass@8": _from_to(reports, "pass_at_8"),
            "KL to reference": f"{_median(reports, 'kl_to_reference'):.2f} nats",
        }
        for (algo, env), reports in shown.items()
    }
    columns = tuple((name, operator.itemgetter(name)) for name in next(iter(rows.values())))
    what = "Of samples at temperature 1, to held-out prompts; after imitation, and in the end; medians."
    return ["## Correct responses", "", what, "", *_table("task, algorithm", columns, rows), ""]


def _of_tokens(seeds: list[Record]) -> bool:
    return all("pass_at_1" in (r["report"] or {}) for r in seeds)


def _from_to(reports: list[dict[str, Any]], key: str) -> str:
    ends = sorted(r[key] for r in reports)
    spread = f" ({ends[0]:.3f} to {ends[-1]:.3f})" if len(ends) > 1 else ""
    return f"{_median(reports, key + '_start'):.3f}, then {_median(reports, key):.3f}{spread}"


def _median(reports: list[dict[str, Any]], key: str) -> float:
    return float(np.median([r[key] for r in reports]))


def _gait_tables(cells: dict[tuple[str, str], list[Record]], called: dict[str, str]) -> list[str]:
    reports = {
        at: [_of_gait(r["report"]) for r in seeds if r["report"] and r["report"].get("gait")]
        for at, seeds in cells.items()
    }
    lines: list[str] = []
    for env in dict.fromkeys(env for (_, env), found in reports.items() if found):
        mean = {
            a: control.mean_of(found) for (a, e), found in reports.items() if found and e == env
        }
        what = "Mean over seeds; ± is the standard deviation over episodes."
        lines += [f"## Gait, {markdown.inert(called[env])}", "", what, ""]
        lines += [*_table("algorithm", (_RETURN, *_GAIT), mean), ""]
        noted = {a: [r["report"] for r in cells[a, env] if r["report"]] for a in mean}
        lines += goals.table(
            {a: [report.get("reached") for report in of] for a, of in noted.items()}, called[env]
        )
    return lines


def _goals(noted: list[dict[str, Any] | None]) -> tuple[Column, ...]:
    """Returns a column for each goal of the runs' task."""
    return tuple(
        (goals.heading(name), lambda s, name=name: goals.moment(s.get("reached"), name))
        for name in goals.names(noted)
    )


def _of_gait(report: dict[str, Any]) -> dict[str, Any]:
    """Returns the entries of a gait report that its table shows; all versions have them."""
    names = ("eval_return_mean", "eval_return_std", "survival_rate", "distance_m")
    shown = ("walks", "alternation", "flight", "duty_right", "duty_left")
    return {
        **{name: report.get(name) for name in names},
        "gait": {name: report["gait"][name] for name in shown},
    }


def _table(corner: str, columns: tuple[Column, ...], rows: dict[str, dict[str, Any]]) -> list[str]:
    cells = [[label, *(cell(of) for _, cell in columns)] for label, of in rows.items()]
    return markdown.table([corner, *(name for name, _ in columns)], cells)


def _grid(texts: dict[tuple[str, str], str], called: dict[str, str]) -> list[str]:
    """Returns a table of `texts` by (row, column); a missing one is a dash."""
    rows = sorted({row for row, _ in texts})
    columns = sorted({column for _, column in texts})
    cells = [[row, *(texts.get((row, c), "-") for c in columns)] for row in rows]
    return markdown.table(["algorithm", *(called[c] for c in columns)], cells)


def _spread(values: list[float | None], with_count: bool) -> str:
    """Returns the median, the range, and the number of values."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    text = figure(float(np.median(known)))
    notes = [f"{figure(min(known))} to {figure(max(known))}"] if len(known) > 1 else []
    notes += [f"n={len(known)}"] if with_count else []
    return f"{text} ({', '.join(notes)})" if notes else text


def _count(n: int, what: str) -> str:
    return f"one {what}" if n == 1 else f"{n} {what}s"


def _steps(seeds: list[Record]) -> str:
    return " or ".join(dict.fromkeys(si(r["env_steps"]) for r in seeds))


def _wall_clock(seeds: list[Record]) -> str:
    """Returns the wall clock of the runs in which the seeds were trained."""
    seconds = sorted(wall_clocks(seeds).values())
    middle = duration(float(np.median(seconds)))
    if len(seconds) == 1:
        return middle
    return f"{middle} ({duration(seconds[0])} to {duration(seconds[-1])})"


def _made_by(config: dict[str, Any]) -> str:
    machine, versions = config.get("machine"), config.get("versions") or {}
    packages = ", ".join(f"{k} {v}" for k, v in versions.items() if v and k != "stride-rl")
    where = "a machine that is not known"
    if machine:
        where = f"{machine['cpu']}, {machine['cores']} cores, device {machine['device']}"
    return (
        f"commit {short_commit(config.get('commit'))}; {where}; {packages or 'versions not known'}"
    )


def _gait(summary: dict[str, Any], name: str) -> Any:
    return summary["gait"][name] if summary.get("gait") else None


def _yes_or_no(share: float | None) -> str:
    """Returns the share of seeds as text; for one seed it is a bool."""
    if share is None:
        return "-"
    return {0.0: "no", 1.0: "yes"}.get(float(share), "in part")


def _number(x: float | None, form: str, unit: str = "") -> str:
    return "-" if x is None else f"{x:{form}}{unit}"


def _episodes(numbers: Iterable[int]) -> str:
    """Returns counts as text: 64, 64 or 128, 512 to 625."""
    counts = sorted(set(numbers))
    return f"{counts[0]} to {counts[-1]}" if len(counts) > 2 else " or ".join(map(str, counts))
