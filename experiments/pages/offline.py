"""The table of learners from datasets: normalised scores, beside the behaviour that was recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.data.scores import scores
from experiments.pages import markdown

Record = dict[str, Any]
Cells = Mapping[tuple[str, str], list[Record]]  # by algorithm and subject

_SCORES = {
    "score": "Normalised score, 100 (R - low) / (high - low), by the references of each dataset",
    "score_d4rl": "The same by D4RL's references, of earlier versions of these environments",
}
_BEHAVIOUR, _BEST = "behaviour", "best tenth of the data"


def subject(r: Record) -> str:
    """Returns what a record's column on a page is: the dataset, where there is one, else the environment."""
    return r["dataset"]["id"] if r.get("dataset") else r["env"]


def score_tables(cells: Cells, called: Mapping[str, str]) -> list[str]:
    """Returns the tables of normalised scores, with the data's own as rows; none where no record has a score."""
    lines: list[str] = []
    for name, what in _SCORES.items():
        known = {
            at: values
            for at, seeds in cells.items()
            if (values := [v for r in seeds if (v := r["final"].get(name)) is not None])
        }
        if not known:
            continue
        columns = sorted({column for _, column in known})
        behaviour = {
            column: _of_data(
                next(r for (_, c), seeds in cells.items() if c == column for r in seeds)
            )
            for column in columns
        }
        rows = [
            [row, *(_shown([behaviour[c][row][name]]) for c in columns)]
            for row in (_BEHAVIOUR, _BEST)
        ]
        rows += [
            [algo, *(_shown(known.get((algo, c), [])) for c in columns)]
            for algo in sorted({algo for algo, _ in known})
        ]
        heading = "Normalised score" if name == "score" else "Score by D4RL's references"
        lines += [f"## {heading}", "", f"{what}: median over seeds (lowest to highest).", ""]
        lines += [*markdown.table(["algorithm", *(called[c] for c in columns)], rows), ""]
    return lines


def data_table(cells: Cells, called: Mapping[str, str]) -> list[str]:
    """Returns a table of the datasets: sizes, returns, references, and the hash of their content."""
    facts = {
        at[1]: next(r for r in seeds)["dataset"]
        for at, seeds in cells.items()
        if seeds[0].get("dataset")
    }
    if not facts:
        return []
    rows = [
        [
            f["id"],
            f["steps"],
            f["episodes"],
            f"{f['return_mean']:.1f}",
            f"{f['return_best_decile']:.1f}",
            *("-" if f[x] is None else f"{f[x]:.1f}" for x in ("ref_min", "ref_max")),
            f["sha256"][:12],
        ]
        for _, f in sorted(facts.items())
    ]
    head = ("dataset", "steps", "episodes", "return", "best tenth", "low", "high", "SHA-256")
    what = "Recorded here, from policies trained here. Low and high: returns of random actions and of an expert."
    return ["## Datasets", "", what, "", *markdown.table(head, rows), ""]


def _of_data(r: Record) -> dict[str, dict[str, float | None]]:
    f = r["dataset"]
    ends = f["ref_min"], f["ref_max"]
    return {
        _BEHAVIOUR: scores(f["return_mean"], r["env"], *ends),
        _BEST: scores(f["return_best_decile"], r["env"], *ends),
    }


def _shown(values: list[float | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return "-"
    spread = f" ({min(known):.1f} to {max(known):.1f})" if len(known) > 1 else ""
    return f"{np.median(known):.1f}{spread}"
