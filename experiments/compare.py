"""Learning curves of several runs in one picture: python -m experiments.compare DIR DIR ... [--out FILE]"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from experiments import plots, runs
from experiments.cli import parse_flags, run_main
from experiments.console import Display


@dataclasses.dataclass(frozen=True)
class CompareFlags:
    folders: tyro.conf.Positional[tuple[Path, ...]]
    """folders of runs"""
    out: Path = Path("curves.png")
    """the picture"""


def main() -> None:
    run_main(lambda: compare(sys.argv[1:]))


def compare(argv: Sequence[str]) -> int:
    flags = parse_flags(CompareFlags, argv, None, "Draws learning curves of several runs.")
    if not flags.folders:
        raise ValueError("which runs? give their folders")
    configs = [runs.read_config(folder) for folder in flags.folders]
    curves = {
        label: [
            runs.read_rows(runs.metrics_file(folder, config["seeds"], i))
            for i in range(config["seeds"])
        ]
        for label, folder, config in zip(label_runs(configs), flags.folders, configs, strict=True)
    }
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    Display().say(str(plots.comparison(curves, flags.out)))
    return 0


def label_runs(configs: list[dict[str, Any]]) -> list[str]:
    """What tells the runs apart: environment, algorithm, seeds, and the settings in which they differ."""
    flat = [
        {"env": c["env"], "algo": c["algo"], **c["env_kwargs"], **c["config"], "seed": c["seed"]}
        for c in configs
    ]
    names = dict.fromkeys(name for c in flat for name in c)
    differing = [n for n in names if len({str(c.get(n)) for c in flat}) > 1]
    labels: list[str] = []
    for c in flat:
        told = [f"{n} {c[n]}" if n not in ("env", "algo") else c[n] for n in differing if n in c]
        label = ", ".join(told) or f"{c['env']}, {c['algo']}"
        same = sum(known.split(" #")[0] == label for known in labels)
        labels.append(f"{label} #{same + 1}" if same else label)
    return labels


if __name__ == "__main__":
    main()
