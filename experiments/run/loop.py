"""The training loop: the only one.

Training is a pure function of the seed, `state -> algo.step(state)` again and again. The loop on the host runs it
in chunks of iterations, each one call of one compiled program, and between chunks does what has to do with clocks,
files and people: rows of metrics, evaluation, checkpoints, the display, signals. How long chunks are follows the
machine's speed and has no influence on any result: the program takes their length as an argument, rows and
evaluations are bound to absolute numbers of iterations.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agents.algorithm import CollectsApart
from experiments.console.display import Display
from experiments.console.signals import RunInterruptedError, Stop, Worker
from experiments.evaluation import control, metrics, nonfinite
from experiments.evaluation.evaluator import evaluator
from experiments.run import checkpoints, folders, goals
from experiments.run.programs import MAX_CHUNK, Programs, programs_of
from experiments.run.progress import Progress, env_steps, total_iterations
from experiments.run.spec import Spec, initial_keys, load_state, with_scores
from experiments.run.tracking import Track

CHUNK_SECONDS = 1.0  # aimed at: the display's pace, and how long Ctrl-C waits
CHECKPOINT_SECONDS = 10.0  # and at most a chunk and an evaluation more


class NonFiniteError(Exception):
    """Raised where learning yields infinities or NaN, or the environment nothing else; the last good checkpoint is
    kept."""


@dataclasses.dataclass(frozen=True)
class Finished:
    """The result of training: states and progress of a run, and its final evaluation."""

    states: Any  # leading axis: seeds
    progress: Progress
    episodes: list[Any]  # the final evaluation, one per seed: what the domain's evaluator makes
    elsewhere: Any = None  # of a run with actors: its `experiments.actors.learner.Elsewhere`


def train(
    folder: Path,
    spec: Spec,
    algo: Any,
    display: Display,
    resume: bool = False,
    track: Track = lambda seed_index, rows: None,
    programs: Programs | None = None,
    time_rollout: bool = False,
) -> Finished:
    """Trains to the end, from the start or from `folder`'s newest usable checkpoint. `programs`: None: new ones.
    `time_rollout`: rollout and update are timed apart, for which a further program is compiled.

    Raises RunInterruptedError on SIGINT or SIGTERM, NonFiniteError where learning broke down.
    """
    programs = programs or programs_of(spec, algo)
    with Stop() as stop, Worker(stop) as worker:
        given = folder, spec, algo, display, stop, worker, track, programs, time_rollout
        return Loop(*given).run(resume)


class Loop:
    """The variables of the training loop."""

    def __init__(self, folder, spec, algo, display, stop, worker, track, programs, time_rollout):
        self.folder, self.spec, self.algo, self.display = folder, spec, algo, display
        self.track, self.programs, self.stop, self.worker = track, programs, stop, worker
        self.time_rollout = time_rollout and not programs.elsewhere  # which measures itself
        self.total = total_iterations(spec.config.total_steps, algo)
        self.row_every = metrics.row_iterations(self.total)
        self.marks = metrics.evaluation_marks(self.total)
        self.evaluator = evaluator(spec.domain)
        self.eval_episodes = self.evaluator.episodes(spec.config.total_steps, algo)
        self.final_batches = self.evaluator.final_batches(algo, self.eval_episodes)
        self.progress, self.saved_at = Progress(), -np.inf
        self.states: Any = None
        self.rollout_share: float | None = None
        # The programs may have been traced already, to see how much memory they need.
        self.clock = time.monotonic() - programs.compile_s
        self.warned: set[str] = set()

    def run(self, resume: bool) -> Finished:
        """Trains to the end, or raises RunInterruptedError or NonFiniteError."""
        if resume:
            self._restore()
        self.display.start(self._env_steps(self.total), self._env_steps())
        self.programs.compile_ahead(from_start=self.states is None)
        if self.states is None:
            self.states = self.call(self.programs.start, initial_keys(self.spec))
            self._save()
        if self.progress.iteration == 0 and self.evaluator.at_start:
            self._write_start(self._evaluate(self.final_batches))
        chunk, episodes = 1, None
        while self.progress.iteration < self.total:
            self._stop_if_asked()
            upcoming = next(m for m in self.marks if m > self.progress.iteration)
            n = min(chunk, upcoming - self.progress.iteration)
            seconds = self.advance(n)
            last, episodes = self.progress.iteration == self.total, None
            if self.progress.iteration in self.marks:
                began = self._now()
                episodes = self._evaluate(self.final_batches if last else 1)
                self._note_goals(episodes, last, began)
            self._write_rows(seconds / n, episodes)
            due = self._now() - self.saved_at > CHECKPOINT_SECONDS
            if due or self.progress.iteration == self.total:
                self._save()
            chunk = int(np.clip(CHUNK_SECONDS * n / seconds, 1, min(4 * chunk, MAX_CHUNK)))
        # Resumed after the last iteration, there is nothing left but to look at the result.
        episodes = episodes or self._evaluate(self.final_batches)
        self._settle_clocks()
        end = self.programs.gather(self.states), self.progress, episodes
        return Finished(*end, self.programs.elsewhere)

    def advance(self, n: int) -> float:
        """Runs `n` iterations and returns the seconds that they took."""
        start, compiled = time.monotonic(), self.programs.compile_s
        self.states, buffers = self.call(self.programs.advance, self.states, n)
        buffers = {name: np.asarray(x)[:n] for name, x in buffers.items()}
        seconds = time.monotonic() - start - (self.programs.compile_s - compiled)
        counts, buffers = nonfinite.split(buffers, self.algo.iteration_steps)
        self._refuse_nonfinite(buffers, counts, n)
        self._measure_share(seconds / n)
        if self.rollout_share is not None:
            for name, share in (
                ("rollout", self.rollout_share),
                ("update", 1 - self.rollout_share),
            ):
                buffers[f"time/{name}_s"] = np.full((n, self.spec.seeds), share * seconds / n)
        self.progress.iteration += n
        self.progress.train_s += seconds
        self.progress.pending = metrics.extend(self.progress.pending, buffers)
        live = [
            metrics.aggregate({k: x.tolist() for k, x in buffers.items()}, i) for i in self._seeds()
        ]
        speed = n * self.algo.iteration_steps * self.spec.seeds / seconds
        self.display.update(self._env_steps(), speed, live)
        return seconds

    def _measure_share(self, iteration_s: float) -> None:
        """Measures the rollout's share of an iteration, where that is asked for, by a program of its own, because a
        program has no clock inside: at the start and after each evaluation."""
        first = self.rollout_share is None
        can = not self.algo.env.on_host and isinstance(self.algo, CollectsApart)
        if not (self.time_rollout and can and (first or self.progress.iteration in self.marks)):
            return
        if first:
            self.call(self.programs.collect, self.states)  # compiles, and warms the caches
        start = time.monotonic()
        self.call(self.programs.collect, self.states)
        self.rollout_share = min(1.0, (time.monotonic() - start) / iteration_s)

    def _evaluate(self, num_batches: int, first: int = 0) -> list[Any]:
        """Episodes for each seed, in batches of one size so that one program serves all, from batch `first` on."""
        n = self.eval_episodes
        self.display.note(f"evaluating {num_batches * n} episodes")
        batches, states = [], self.programs.gather(self.states)
        for i in range(first, first + num_batches):
            if num_batches > 1 and self.stop.received is not None:
                # At the end that costs the iterations since the last checkpoint, some seconds of them.
                raise RunInterruptedError(self.stop.received)
            seeds = [self.spec.seed + i for i in self._seeds()]
            keys = jnp.stack([control.keys(s, i * n, n) for s in seeds])
            batch = jax.device_get(self.call(self.programs.evaluate, states, keys))
            batches.append(batch)
        per_seed = [
            self.evaluator.concatenate([jax.tree.map(lambda x, i=i: x[i], b) for b in batches])
            for i in self._seeds()
        ]
        for episodes in per_seed:
            self._warn_once("evaluation", self.evaluator.trouble(self.algo, episodes))
        return per_seed

    def _note_goals(self, episodes: list[Any], whole: bool, began: float) -> None:
        """Notes the goals that the policies are the first to reach; `whole`: the evaluation is a final one's size."""

        def enlarged() -> list[Any]:
            rest = [] if whole else [self._evaluate(self.final_batches - 1, first=1)]
            return [self.evaluator.concatenate([*x]) for x in zip(episodes, *rest, strict=True)]

        self.progress.reached = goals.note(
            self.progress.reached,
            lambda found: self.evaluator.goals(self.algo, found),
            episodes,
            enlarged,
            (self._env_steps(), round(began, 3)),
        )

    def _write_start(self, episodes: list[Any]) -> None:
        """Writes a row of figures from before training."""
        for i in self._seeds():
            row = {"env_steps": self._env_steps(0), "wall_clock_s": round(self._now(), 3)}
            rows = [row | self.evaluator.row(episodes[i])]
            folders.append_rows(folders.metrics_file(self.folder, self.spec.seeds, i), rows)
            self._write_transcripts(i, self._env_steps(0), episodes[i])
            self.track(i, rows)

    def _write_transcripts(self, seed_index: int, env_steps: int, episodes: Any) -> None:
        transcripts = self.evaluator.transcripts(self.algo, episodes)
        rows = [{"env_steps": env_steps, **transcript} for transcript in transcripts]
        folders.append_rows(folders.samples_file(self.folder, self.spec.seeds, seed_index), rows)

    def _write_rows(self, iteration_s: float, episodes: list[Any] | None) -> None:
        """Turns pending iterations into rows, as far as they are complete, and appends these."""
        progress = self.progress
        waiting = len(next(iter(progress.pending.values())))
        begin = progress.iteration - waiting
        rows: list[list[dict]] = [[] for _ in self._seeds()]
        while begin < progress.iteration:
            end = min(begin + self.row_every, self.total)
            if end > progress.iteration:
                break
            size = end - begin
            done = {name: x[:size] for name, x in progress.pending.items()}
            progress.pending = {name: x[size:] for name, x in progress.pending.items()}
            wall = self._now() - (progress.iteration - end) * iteration_s
            for i in self._seeds():
                evaluated = episodes[i] if episodes and end == progress.iteration else None
                rows[i].append(self._row(end, wall, done, i, evaluated))
                if evaluated is not None:
                    self._write_transcripts(i, self._env_steps(end), evaluated)
            begin = end
        for i in self._seeds():
            folders.append_rows(folders.metrics_file(self.folder, self.spec.seeds, i), rows[i])
            self.track(i, rows[i])

    def _row(self, end, wall, done, seed_index, evaluated) -> dict[str, Any]:
        steps = self._env_steps(end)
        row = {"env_steps": steps, "wall_clock_s": round(wall, 3)}
        row |= metrics.aggregate(done, seed_index)
        if evaluated is None:
            return row | {"eval/return": None, "eval/length": None}
        return row | with_scores(self.spec, self.evaluator.row(evaluated))

    def _refuse_nonfinite(
        self, buffers: dict[str, np.ndarray], counts: nonfinite.Counts, n: int
    ) -> None:
        """Counts what was not finite in `n` iterations; raises NonFiniteError where there is no going on."""
        place = nonfinite.Place(
            self._env_steps(),
            self.algo.iteration_steps,
            self.spec.seed,
            self.algo.env.on_host,
        )
        tally = nonfinite.counted(self.progress.tally, counts)
        over = self.progress.iteration + n == self.total
        reason = (
            nonfinite.spoiled_start(counts, place)
            or nonfinite.hopeless(tally, counts, place, over)
            or nonfinite.broken(buffers, self.algo.learned(self.states), place)
        )
        self._warn_once("training", nonfinite.warning(counts, place))
        self._warn_once("infos", nonfinite.infos_warning(buffers, self.algo.env))
        if reason is None:
            self.progress.tally = tally
            return
        kept = checkpoints.steps(self.folder / "checkpoints")[0]
        raise NonFiniteError(
            f"{reason}: stopped; the last good checkpoint, of env step {kept}, is kept in "
            f"{self.folder / 'checkpoints'}"
        )

    def _warn_once(self, about: str, line: str | None) -> None:
        if line is not None and about not in self.warned:
            self.warned.add(about)
            self.display.warn(line)

    def _restore(self) -> None:
        """Goes back to the newest usable checkpoint; to nothing, if the run was stopped before its first."""
        folder = self.folder / "checkpoints"
        begun = checkpoints.begun(folder) or any(
            row["env_steps"] > self._env_steps(0)
            for i in self._seeds()
            for row in folders.read_rows(folders.metrics_file(self.folder, self.spec.seeds, i))
        )
        steps = 0
        if begun:
            self.states, progress, steps = load_state(
                self.folder, self.spec, self.algo, self.display.warn
            )
            self.progress = Progress.restored(progress)
            self.programs.resume(self.progress.actors)
            waiting = len(next(iter(self.progress.pending.values()), ()))
            written = self._env_steps(self.progress.iteration - waiting)
            at_start = self.evaluator.at_start and self.progress.iteration > 0
            for i in self._seeds():
                path = folders.metrics_file(self.folder, self.spec.seeds, i)
                folders.require_rows(path, written, self._env_steps(0), at_start)
        checkpoints.discard_after(folder, steps if begun else -1)
        # What was found before the first iteration is found again.
        last = steps if self.progress.iteration else -1
        for i in self._seeds():
            for name in (folders.metrics_file, folders.samples_file):
                path = name(self.folder, self.spec.seeds, i)
                damaged = folders.truncate_rows(path, last)
                if damaged:
                    self.display.warn(f"{path}: {damaged} damaged lines dropped")
        self.saved_at = self._now()
        self.display.say(
            f"resumed at env step {steps}" if begun else "no checkpoint yet: from the beginning"
        )

    def _save(self) -> None:
        self._settle_clocks()
        self.states, self.progress.actors = self.programs.settled(self.states)
        progress, states = dataclasses.asdict(self.progress), self.programs.gather(self.states)
        checkpoints.save(self.folder / "checkpoints", self._env_steps(), states, progress)
        self.saved_at = self._now()

    def _stop_if_asked(self) -> None:
        if self.stop.received is None:
            return
        self._save()
        raise RunInterruptedError(self.stop.received)

    def call(self, program: Callable, *arguments: Any) -> Any:
        """Returns a program's results from the worker's thread. Raises RunInterruptedError if a signal gives it up."""
        return self.worker.run(
            lambda: jax.block_until_ready(program(*arguments)),
            # Before the first checkpoint nothing can be lost, and while a program is built only some seconds can.
            at_once=lambda: self.states is None or self.programs.is_building,
        )

    def _now(self) -> float:
        """Returns the seconds of this run so far, those before a resume included."""
        return self.progress.wall_clock_s + time.monotonic() - self.clock

    def _settle_clocks(self) -> None:
        """Brings the times in `progress` up to now."""
        self.progress.wall_clock_s, self.clock = self._now(), time.monotonic()
        self.progress.compile_s += self.programs.compile_s
        self.programs.compile_s = 0.0

    def _env_steps(self, iteration: int | None = None) -> int:
        """Returns the environment steps taken by the end of an iteration; None: of the last one done."""
        return env_steps(self.algo, self.progress.iteration if iteration is None else iteration)

    def _seeds(self) -> range:
        return range(self.spec.seeds)
