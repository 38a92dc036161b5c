"""The end of a run: writes summary.json, the learning curve and the video, and prints a table."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax

from agents.algorithm import LearnsOffline
from agents.tokens.transformer import num_parameters
from experiments.actors.learner import Elsewhere
from experiments.console.display import Display, duration, si
from experiments.evaluation import best_of, control, nonfinite, tokens
from experiments.evaluation.evaluator import evaluator
from experiments.evaluation.frame_rate import frame_rate
from experiments.run import folders, goals
from experiments.run.loop import Finished, env_steps
from experiments.run.spec import TOKENS, Spec, algorithm, eval_scores, short_name
from experiments.run.whole import write_whole
from experiments.user_envs.load import located

_BEST_OF_TAG = 0xB057  # which random numbers are whose
# Lines of the gait report: what, unit, and the name in `gait.analyse`.
_GAIT = (
    ("survival", "", "survival"),
    ("distance", " m", "distance"),
    ("speed", " m/s", "speed"),
    ("left-right alternation", "", "alternation"),
    ("duty factor right, left", "", "duty_right duty_left"),
    ("single, double support, flight", "", "single_support double_support flight"),
    ("landing foot ahead", "", "landing_ahead"),
    ("max |y|", " m", "max_lateral"),
    ("max |yaw|, |roll|", " rad", "max_yaw max_roll"),
    ("swing clearance", " m", "swing_clearance"),
    ("stance slip", " m/s", "stance_slip"),
    ("cost of transport", "", "cost_of_transport"),
)


def summarise(folder: Path, spec: Spec, algo: Any, finished: Finished) -> dict[str, Any]:
    """Writes summary.json and returns it. Scalars are means over seeds."""
    progress = finished.progress
    steps = env_steps(algo, progress.iteration)
    evaluating = evaluator(spec.domain)
    per_seed = [evaluating.final_figures(algo, episodes) for episodes in finished.episodes]
    at_mark = evaluating.episodes(spec.config.total_steps, algo)
    for entries, share in zip(per_seed, nonfinite.shares(progress.tally), strict=False):
        entries["train_nonfinite"] = share
    if spec.domain == "tokens":
        for i, entries in enumerate(per_seed):
            entries |= _of_tokens(folder, spec, finished, i) | _best_of(spec, algo, finished, i)
    for entries in per_seed if spec.domain == "control" else ():
        entries |= eval_scores(spec, entries["eval_return_mean"], "")
    means = control.mean_of(per_seed)
    names = evaluating.goals(algo, finished.episodes[0])
    if names:
        for i, entries in enumerate(per_seed):
            entries["reached"] = goals.entries(names, progress.reached.get(str(i), {}))
        means["reached"] = goals.of_seeds([entries["reached"] for entries in per_seed])
    summary = {
        "env": spec.env,
        "algo": spec.algo,
        "seed": spec.seed,
        "seeds": spec.seeds,
        "env_steps": steps,
        **_of_offline(spec, algo),
        "wall_clock_s": progress.wall_clock_s,
        "compile_s": progress.compile_s,
        # Of all seeds together, while training: without compilation, evaluation and checkpoints.
        "steps_per_second": steps * spec.seeds / max(progress.train_s, 1e-9),
        # How many times the episodes of an evaluation during training the final one had.
        "eval_batches": evaluating.final_batches(algo, at_mark),
        **means,
        **(_of_token_run(spec, algo, finished, per_seed) if spec.domain == "tokens" else {}),
        **_of_actors(finished),
        "per_seed": [{"seed": spec.seed + i, **report} for i, report in enumerate(per_seed)],
    }
    folders.write_json(folder / folders.SUMMARY, summary)
    return summary


def _of_offline(spec: Spec, algo: Any) -> dict[str, Any]:
    """Returns what `env_steps` counts where it is not the environment's steps, and the facts of the dataset."""
    unit = {"unit": algo.unit} if isinstance(algo, LearnsOffline) else {}
    return unit | ({"dataset": dataclasses.asdict(spec.dataset)} if spec.dataset else {})


def _of_tokens(folder: Path, spec: Spec, finished: Finished, i: int) -> dict[str, Any]:
    """Returns the figures of one seed's tokens, and of its policy before training."""
    start = folders.read_rows(folders.metrics_file(folder, spec.seeds, i))[0]
    return {
        "tokens_generated": int(finished.states.tokens[i]),
        "pass_at_1_start": start["eval/pass_at_1"],
        "pass_at_8_start": start["eval/pass_at_8"],
    }


def _best_of(spec: Spec, algo: Any, finished: Finished, i: int) -> dict[str, Any]:
    """Returns the shares of prompts that one seed's best of n answers by reward solve, where that is asked for."""
    if spec.best_of == 1:
        return {}
    params = jax.tree.map(lambda x: x[i], finished.states.params)
    key = jax.random.fold_in(jax.random.key(spec.seed + i), _BEST_OF_TAG)
    found = best_of.measured(algo, params, key, tokens.FINAL_PROMPTS, spec.best_of, algo.reward)
    return {f"best_of_{n}": share for n, share in found.items()}


def _of_token_run(
    spec: Spec, algo: Any, finished: Finished, per_seed: list[dict[str, Any]]
) -> dict[str, Any]:
    written = sum(report["tokens_generated"] for report in per_seed)
    return {
        "task": spec.env.removeprefix(TOKENS),
        "held_out": algo.env.holds_out,  # whether any prompts are: else evaluation asks those of training
        "parameters": num_parameters(finished.states.params) // spec.seeds,
        "tokens_generated": written,
        # Of all seeds together, while training.
        "tokens_per_second": written / max(finished.progress.train_s, 1e-9),
    }


def _of_actors(finished: Finished) -> dict[str, Any]:
    """Returns what was measured of actors and the learner, where there were any."""
    if finished.elsewhere is None:
        return {}
    return {"actors": finished.elsewhere.meter.table(finished.progress.train_s)}


def draw_curve(folder: Path, spec: Spec) -> Path:
    """Draws curve.png of a run and returns its path. Raises OSError where it cannot be written."""
    from experiments.figures import training

    rows = [
        folders.read_rows(folders.metrics_file(folder, spec.seeds, i)) for i in range(spec.seeds)
    ]
    title = f"{short_name(spec.env)}, {spec.algo}"
    path = folder / "curve.png"
    with folders.naming(path):
        if spec.domain == "tokens":
            return training.pass_curve(rows, path, title)
        kind = algorithm(spec.algo)
        unit = kind.unit if isinstance(kind, LearnsOffline) else "environment steps"
        return training.learning_curve(rows, path, title, unit)


def draw_timeline(folder: Path, spec: Spec, elsewhere: Elsewhere) -> Path:
    """Draws timeline.png, one second of a run with actors, and returns its path. Raises OSError where it cannot be
    written."""
    from experiments.figures.timeline import timeline

    title = f"{short_name(spec.env)}, {spec.algo}, {spec.actors} actors: one second"
    with folders.naming(folder / "timeline.png"):
        return timeline(elsewhere.meter.events, folder / "timeline.png", title)


def write_video(
    folder: Path, algo: Any, episodes: control.Episodes, display: Display
) -> list[Path]:
    """Writes the video of the episode of median return and returns its paths; none for environments with nothing to
    see."""
    try:
        frame_rate(algo.env)
    except ValueError as error:
        display.warn(f"no video: {error}")
    if not control.recorded(episodes):
        return []
    from experiments.evaluation import video

    states, rewards = control.episode(episodes, control.typical(episodes))
    try:
        return write_whole(
            lambda fresh: video.write(algo.env, states, rewards, fresh, display.say),
            folder / "video",
        )
    except Exception as error:  # the drawing may be anybody's; the run is finished all the same
        display.warn(f"no video: {located(error, Path.cwd())}")
        return []


def show(summary: dict[str, Any], paths: list[Path], folder: Path, display: Display) -> None:
    """Prints a table of the summary, and the paths of the files."""
    display.table(_title(summary), _token_rows(summary) if "task" in summary else _rows(summary))
    measures = summary.get("gait")
    if measures:
        display.table(
            _verdict(measures),
            [(what, _figures(measures, names, unit)) for what, unit, names in _GAIT],
        )
    for path in [*paths, folder]:
        display.say(f"{path}")


def _rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("return", f"{summary['eval_return_mean']:.1f} ± {summary['eval_return_std']:.1f}"),
        ("episodes", f"{summary['eval_episodes']} a seed, deterministic"),
        ("survival", f"{summary['survival_rate']:.1%}"),
        *_scores(summary),
        *_nonfinite(summary),
        (summary.get("unit", "env steps"), f"{si(summary['env_steps'])} a seed"),
        ("speed", f"{si(summary['steps_per_second'])} steps/s"),
        _wall_clock(summary),
        *_reached(summary),
    ]


def _reached(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns a row for each goal of the task: when it was first reached."""
    return [
        (f"first {name.replace('_', ' ')}", _moment(moment, summary["seeds"]))
        for name, moment in (summary.get("reached") or {}).items()
    ]


def _moment(moment: dict[str, Any], seeds: int) -> str:
    if not moment["seeds"]:
        return "never"
    after = f"after {si(moment['env_steps'])} steps, {duration(moment['wall_clock_s'])}"
    return after if seeds == 1 else f"{after} (median of {moment['seeds']} of {seeds} seeds)"


def _scores(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns rows on the dataset: its behaviour, and normalised scores."""
    if "dataset" not in summary:
        return []
    facts, theirs = summary["dataset"], summary.get("score_d4rl")
    rows = [("dataset", f"{facts['id']}, return {facts['return_mean']:.1f}")]
    if summary.get("score") is not None:
        ends = f"{facts['ref_min']:.1f} is 0 and {facts['ref_max']:.1f} 100"
        rows.append(("score", f"{summary['score']:.1f}, where {ends}"))
    if theirs is not None:
        rows.append(("score by D4RL's references", f"{theirs:.1f}"))
    return rows


def _nonfinite(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns a row on steps that were not finite, where there were any."""
    episodes, share = summary["eval_nonfinite"], summary.get("train_nonfinite") or 0.0
    if not (episodes or share):
        return []
    shown = f"{nonfinite.percent(share)} of the steps in training, {episodes:g} of these episodes"
    return [("not finite", shown)]


def _token_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    def rise(name: str) -> str:
        return f"{summary[name]:.3f}, from {summary[name + '_start']:.3f}"

    return [
        ("pass@1", rise("pass_at_1")),
        ("pass@8", rise("pass_at_8")),
        *_best_rows(summary),
        ("prompts", _prompts(summary)),
        ("KL to reference", f"{summary['kl_to_reference']:.2f} nats a response"),
        ("parameters", si(summary["parameters"])),
        ("written", f"{si(summary['tokens_generated'])} tokens"),
        ("speed", f"{si(summary['tokens_per_second'])} tokens/s in training"),
        _wall_clock(summary),
    ]


def _best_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns a row on the largest n of which the reward picked the best; none where no reward is learnt from."""
    n = max((int(name[8:]) for name in summary if name.startswith("best_of_")), default=0)
    return [(f"best of {n}", f"{summary[f'best_of_{n}']:.3f}, picked by the reward")] if n else []


def _prompts(summary: dict[str, Any]) -> str:
    asked, distinct = summary["eval_prompts"], summary["eval_prompts_distinct"]
    what = "held out" if summary["held_out"] else "of those trained on, for none is held out,"
    return f"{asked} {what} a seed, {distinct:.0f} of them distinct; temperature 1"


def _wall_clock(summary: dict[str, Any]) -> tuple[str, str]:
    spent = f"{duration(summary['wall_clock_s'])}, {summary['compile_s']:.0f} s compiling"
    return "wall clock", spent


def conclude(
    folder: Path, spec: Spec, algo: Any, finished: Finished, video: bool, display: Display
) -> None:
    """Writes summary, curve and video of a finished run, and prints them. A run with a summary counts as finished, and
    has its curve then."""
    paths = [draw_curve(folder, spec)]
    if finished.elsewhere:
        paths.append(draw_timeline(folder, spec, finished.elsewhere))
    if spec.best_of > 1:
        display.note(f"the best of {spec.best_of}")
    summary = summarise(folder, spec, algo, finished)
    if video and spec.domain == "control":
        display.note("drawing the video")
        paths += write_video(folder, algo, finished.episodes[0], display)
    display.close()
    show(summary, paths, folder, display)


def _title(summary: dict[str, Any]) -> str:
    first, n = summary["seed"], summary["seeds"]
    seeds = f"seed {first}" if n == 1 else f"seeds {first} to {first + n - 1}"
    return f"{short_name(summary['env'])}, {summary['algo']}, {seeds}"


def _verdict(measures: dict[str, Any]) -> str:
    walks = measures["walks"]
    if isinstance(walks, bool):
        return "gait: it walks" if walks else "gait: it does not walk"
    return f"gait: {walks:.0%} of the seeds walk"


def _figures(measures: dict[str, Any], names: str, unit: str) -> str:
    values = [measures[name] for name in names.split()]
    return ", ".join("-" if v is None or v != v else f"{v:.3g}" for v in values) + unit
