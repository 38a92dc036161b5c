"""results/bench/README.md from the figures beside it: `python -m experiments.benchmarks.page`

The figures are what `python -m experiments.bench` with `--tasks`, `--learners`, `--tokens` and `--actors` wrote.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from experiments.actors.cost import Costs
from experiments.benchmarks.actors import checked_table, measured_table, predicted_table
from experiments.console import outputs
from experiments.console.display import Display
from experiments.console.exits import run_main
from experiments.pages.markdown import table
from experiments.run.provenance import short_commit

FOLDER = Path(__file__).parents[2] / "results" / "bench"

Figures = dict[str, Any]

HEAD = """# Speed compared with other libraries

Each number is the median over the rounds of one run, which alternates between the libraries. A ratio is our speed
divided by theirs: the median of the ratios of neighbouring measurements. SBX 0.28.0, Stable-Baselines3 2.9.2, Rejax
0.1.3, and EnvPool and gymnax as of November 2026 (the extra `rivals`). `python -m experiments.benchmarks.page` makes
this page from the files in its folder.
"""

TASKS = """## Stepping 1024 environments, random actions

`python -m experiments.bench --rounds 9 --seconds 1.5 --json FILE --tasks` with the tasks below, one run per file.
SyncVectorEnv uses one core, the others all cores. "C physics" is unmodified MuJoCo through `mujoco.rollout`, without
a learner. Our engine computes the same states with less work: MuJoCo's clock is stopped, contact pairs are
precomputed, render-only geometry is dropped (`envs/process.py`, `envs/physics/optimised.py`). "The bound" is C
physics with these changes. Reacher, Pusher, Ant and the double pendulum (mujoco-threads.json) observe quantities that
`mujoco.rollout` does not return, and step in Python threads. The rivals' Ant also observes contact forces; ours does
not by default. The bound of InvertedPendulum is below our speed, because it is timed from Python, step by step.
"""

LEARNERS = """## Training

`python -m experiments.bench --learners --rounds 3 --seconds 4 --json learners.json`. Networks, minibatch sizes and
gradient steps per environment step are equal. The head of `experiments/benchmarks/learners.py` lists the remaining
differences, above all the number of environments of PPO on HalfCheetah.
"""

TOKENS = """## Tokens

`python -m experiments.bench --tokens --json tokens.json`: generation of 256 responses of 64 tokens by a transformer of
0.1 M parameters, with its key-value cache and with a full forward pass for each token; and iterations of training on
sorting with the presets, including generation (PPO has a critic of the same size).
"""

BEFORE = """`python -m experiments.bench --tokens --before DIR --json tokens-before.json`: iterations of training on
sorting, now and at the commit whose runs [results/tokens](../tokens/README.md) shows, in turn.
"""

TRL = """`python -m experiments.bench --tokens --rivals-python PYTHON --rounds 3 --seconds 6 --json trl.json`: against
TRL {}, in PyTorch {}, in turn on the same cores, both from the same Llama folder of {:.1f} M parameters with the same
prompts: writing 64 responses of 64 tokens by `generate` with a cache, and iterations of GRPO with 64 responses of at
most 64 tokens and one gradient step. Here the prompt of a group is read once. The bound is a program that does nothing
but its products of matrices with weights, at {:.0f} GFLOP/s, the speed of large ones by XLA in the same run: no program
that makes the same products by the same library can be faster.
"""

ACTORS = """## Actors and a learner

`python -m experiments.bench --actors --json actors.json`: PPO on the walker with its preset, by one
process and by actors in processes of their own ([guide](../../docs/guides/distributed.md)). One process collects with
all cores, and its speed is {:,.0f} steps/s; actors, the learner and Ray share the same {} cores.
"""

MODEL = """The model (`experiments/actors/cost.py`), made of what one actor in step was measured at: collecting a batch
{:.3f} s, learning from it {:.3f} s, {:.2f} MB in, {:.2f} MB out. Beside what was measured:
"""


def main() -> None:
    run_main(bench_page)


def bench_page() -> int:
    """Writes results/bench/README.md and returns 0."""
    if sys.argv[1:]:
        raise ValueError("python -m experiments.benchmarks.page takes no arguments")
    path = FOLDER / "README.md"
    outputs.write(path, text(FOLDER))
    Display().say(str(path))
    return 0


def text(folder: Path) -> str:
    """Returns the page of the figures in `folder`."""
    names = ["mujoco", "mujoco-threads", "classic", "learners", "tokens"]
    files = [json.loads((folder / f"{name}.json").read_text()) for name in names]
    *tasks, learners, tokens = files
    parts = [HEAD, TASKS, _tasks(tasks), LEARNERS, _learners(learners)]
    parts += [TOKENS, _tokens(tokens)]
    before = folder / "tokens-before.json"
    if before.exists():
        names.append(before.stem)
        files.append(json.loads(before.read_text()))
        parts += [BEFORE, _before(files[-1])]
    trl = folder / "trl.json"
    if trl.exists():
        names.append(trl.stem)
        files.append(json.loads(trl.read_text()))
        parts += _trl(files[-1])
    actors = folder / "actors.json"
    if actors.exists():
        names.append(actors.stem)
        files.append(json.loads(actors.read_text()))
        parts += _actors(files[-1])
    made = zip(names, map(_made_by, files), strict=True)
    parts.append("\n".join(f"- [{name}.json]({name}.json): {by}" for name, by in made))
    return "\n".join(f"{part.strip()}\n" for part in parts)


def _tasks(files: list[Figures]) -> str:
    rivals = {
        "raw": "C physics",
        "bound": "the bound",
        "sync": "SyncVectorEnv",
        "envpool": "EnvPool",
        "gymnax": "gymnax",
    }
    rows = []
    for figures in files:
        for task in (key.partition("/")[0] for key in figures if key.endswith("/here")):
            ratios = [figures.get(f"{task}/of_{name}") for name in rivals]
            shown = ["-" if x is None else f"{x:.2f}" for x in ratios]
            rows.append([task, f"{figures[f'{task}/here']:,.0f}", *shown])
    head = ["task", "ours, steps/s", *(f"of {name}" for name in rivals.values())]
    return "\n".join(table(head, rows, str))


def _learners(figures: Figures) -> str:
    rows = []
    for key, ratio in figures.items():
        pair, _, rival = key.rpartition("/of_")
        if not pair.startswith("learn/") or rival == "here":
            continue
        _, task, algo = pair.split("/")
        here, theirs = figures[f"{pair}/here"], figures[f"{pair}/{rival}"]
        rows.append([task, algo, f"{here:,.0f}", rival, f"{theirs:,.0f}", f"{ratio:.2f}"])
    head = ("task", "algorithm", "ours, steps/s", "rival", "theirs", "ours is faster by")
    return "\n".join(table(head, rows, str))


def _tokens(figures: Figures) -> str:
    ratio = figures["tokens/cached/of_uncached"]
    rows = {
        f"generation with the cache, {ratio:.1f} times as fast as without": "cached",
        "generation without the cache": "uncached",
        "training, GRPO": "grpo",
        "training, PPO": "ppo",
    }
    speeds = [(what, f"{figures[f'tokens/{key}']:,.0f}") for what, key in rows.items()]
    return "\n".join(table(("", "tokens/s"), speeds, str))


def _before(figures: Figures) -> str:
    commit = short_commit(figures["before"])
    rows = []
    for name in ("grpo", "ppo"):
        here, there, ratio = (figures[f"tokens/{name}{x}"] for x in ("", "/before", "/of_before"))
        rows.append([name.upper(), f"{here:,.0f}", f"{there:,.0f}", f"{ratio:.2f}"])
    head = ("training", "tokens/s", f"at commit {commit}", "now faster by")
    return "\n".join(table(head, rows, str))


def _trl(figures: Figures) -> list[str]:
    packages = figures["packages"]
    rows = []
    for key, what in (("write", "writing"), ("grpo", "GRPO")):
        here, there, ratio = (figures[f"{key}/{x}"] for x in ("here", "trl", "of_trl"))
        bound = figures[f"{key}/bound"]
        rows.append([what, f"{here:,.0f}", f"{there:,.0f}", f"{ratio:.2f}", f"{bound:,.0f}"])
    head = ("", "ours, tokens/s", "TRL", "ours is faster by", "bound of ours")
    speed = figures["products"] / 1e9
    words = TRL.format(packages["trl"], packages["torch"], figures["parameters"] / 1e6, speed)
    return [words, "\n".join(table(head, rows, str))]


def _actors(figures: Figures) -> list[str]:
    costs = Costs(**figures["model"])
    mega = 1e-6
    return [
        ACTORS.format(figures["single"]["steps_per_s"], figures["cores"]),
        measured_table(figures),
        MODEL.format(
            costs.collect_s,
            costs.update_s,
            costs.batch_bytes * mega,
            costs.parameter_bytes * mega,
        ),
        checked_table(figures, costs),
        predicted_table(costs),
    ]


def _made_by(figures: Figures) -> str:
    machine, versions = figures["machine"], figures["versions"]
    return (
        f"commit {short_commit(figures['commit'])}, {machine['cpu']}, {machine['cores']} cores, "
        f"jax {versions['jax']}, mujoco {versions['mujoco']}"
    )


if __name__ == "__main__":
    main()
