"""Puts finished runs on record: python -m experiments.publish DIR DIR ... --out results/walker

Writes README.md (a table, and what made it), curves.png and runs.json (summaries and evaluated returns: kilobytes a
run) into the folder.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from experiments import plots, runs
from experiments.cli import parse_flags, run_main
from experiments.compare import label_runs
from experiments.console import Display


@dataclasses.dataclass(frozen=True)
class PublishFlags:
    folders: tyro.conf.Positional[tuple[Path, ...]]
    """folders of finished runs"""
    out: Path = Path("results/published")
    """where the table, the curves and the data go"""
    title: str = "Results"
    """heading of the table"""


# Columns of the table: heading, and how a run's config and summary fill it.
_COLUMNS = (
    ("return", lambda c, s: f"{s['eval_return_mean']:.1f} ± {s['eval_return_std']:.1f}"),
    ("survival", lambda c, s: f"{s['survival_rate']:.1%}"),
    ("distance", lambda c, s: _number(s["distance_m"], ".2f", " m")),
    ("alternation", lambda c, s: _number(_gait(s, "alternation"), ".3f")),
    (
        "duty right, left",
        lambda c, s: ", ".join(
            _number(_gait(s, f"duty_{side}"), ".2f") for side in ("right", "left")
        ),
    ),
    ("flight", lambda c, s: _number(_gait(s, "flight"), ".1%")),
    ("walks", lambda c, s: _yes_or_no(_gait(s, "walks"))),
    ("env steps", lambda c, s: f"{s['env_steps'] / 1e6:.2f} M"),
    ("wall clock", lambda c, s: f"{s['wall_clock_s']:.0f} s"),
    ("of it compiling", lambda c, s: f"{s['compile_s']:.0f} s"),
    ("steps/s in training", lambda c, s: f"{s['steps_per_second'] / 1e3:.1f} k"),
)


def main() -> None:
    run_main(lambda: publish(sys.argv[1:]))


def publish(argv: Sequence[str]) -> int:
    flags = parse_flags(PublishFlags, argv, None, "Puts finished runs on record.")
    if not flags.folders:
        raise ValueError("which runs? give their folders")
    configs = [runs.read_config(folder) for folder in flags.folders]
    summaries = [_read_summary(folder) for folder in flags.folders]
    labels = label_runs(configs)
    curves = {
        label: [runs.read_rows(runs.metrics_file(f, c["seeds"], i)) for i in range(c["seeds"])]
        for label, f, c in zip(labels, flags.folders, configs, strict=True)
    }
    flags.out.mkdir(parents=True, exist_ok=True)
    plots.comparison(curves, flags.out / "curves.png")
    (flags.out / "README.md").write_text(_page(flags.title, labels, configs, summaries))
    record = [
        {"label": label, "config": config, "summary": summary, "evaluations": _evaluations(rows)}
        for label, config, summary, rows in zip(
            labels, configs, summaries, curves.values(), strict=True
        )
    ]
    (flags.out / "runs.json").write_text(json.dumps(runs.plain(record), indent=1) + "\n")
    Display().say(str(flags.out))
    return 0


def _page(
    title: str, labels: list[str], configs: list[dict[str, Any]], summaries: list[dict[str, Any]]
) -> str:
    lines = [f"# {title}", "", "![learning curves](curves.png)", ""]
    lines += ["| run | " + " | ".join(name for name, _ in _COLUMNS) + " |"]
    lines += ["|---" * (len(_COLUMNS) + 1) + "|"]
    for label, config, summary in zip(labels, configs, summaries, strict=True):
        cells = [cell(config, summary) for _, cell in _COLUMNS]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    episodes = sorted({summary["eval_episodes"] for summary in summaries})
    lines += [
        "",
        f"Return, survival and gait over {' or '.join(map(str, episodes))} fresh starts, deterministic policy; "
        "± is the standard deviation over episodes. Wall clock from the first compilation to the last evaluation.",
        "",
    ]
    lines += [f"- {line}" for line in dict.fromkeys(_made_by(config) for config in configs)]
    lines += ["- settings and evaluated returns of every run: runs.json", ""]
    return "\n".join(lines)


def _made_by(config: dict[str, Any]) -> str:
    machine, versions = config["machine"], config["versions"]
    packages = ", ".join(f"{k} {v}" for k, v in versions.items() if v and k != "stride-rl")
    return (
        f"commit {(config['commit'] or 'unknown')[:12]}; {machine['cpu']}, {machine['cores']} cores, "
        f"device {machine['device']}; {packages}"
    )


def _evaluations(seeds: list[list[dict[str, Any]]]) -> list[list[tuple[int, float]]]:
    """(environment steps, return) of each seed's evaluations."""
    return [
        [
            (row["env_steps"], round(row["eval/return"], 2))
            for row in rows
            if row.get("eval/return") is not None
        ]
        for rows in seeds
    ]


def _read_summary(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "summary.json").read_text())
    except FileNotFoundError:
        raise ValueError(f"{folder} is not finished: it has no summary.json") from None


def _gait(summary: dict[str, Any], name: str) -> float | None:
    return summary["gait"][name] if summary.get("gait") else None


def _yes_or_no(share: float | None) -> str:
    """`share` of the seeds; of one seed it is a bool."""
    if share is None:
        return "-"
    return {0.0: "no", 1.0: "yes"}.get(float(share), "in part")


def _number(x: float | None, form: str, unit: str = "") -> str:
    return "-" if x is None else f"{x:{form}}{unit}"


if __name__ == "__main__":
    main()
