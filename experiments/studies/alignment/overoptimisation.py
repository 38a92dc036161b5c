"""Gold and proxy the further a policy goes by a reward model: best-of-n and reinforcement, and the answers in the end.

Gao, Schulman & Hilton 2022, "Scaling laws for reward model overoptimization". https://arxiv.org/abs/2210.10760
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pages.markdown import table
from experiments.studies import figures
from experiments.studies.alignment import curves
from experiments.studies.alignment.models import Trained, best_by, trained
from experiments.studies.alignment.policies import gold_of, measure, over_seeds
from experiments.studies.alignment.settings import BEST, LEARNT, MODELS, Sizes
from experiments.studies.alignment.training import learn_from
from experiments.studies.study import Experiment, Figure, Say

_VICTIMS = 3  # prompts whose answers are kept
_COLOURS = {"gold": curves.COLOURS[0], "proxy": curves.COLOURS[1]}


def model_numbers(found: Trained, sizes: Sizes) -> dict[str, Any]:
    """Returns how good reward models are: agreement, seconds of their training, and best-of-n at powers of two."""
    best = best_by(found.model.score, found.params, sizes)
    n = 2 ** np.arange(int(np.log2(sizes.best_of)) + 1)
    return {
        "agreement": found.agreement,
        "model_seconds": found.seconds,
        "best_of_n": {
            "n": n,
            "kl": best.kl[n - 1],
            "gold": best.gold[:, n - 1],
            "proxy": best.proxy[:, n - 1],
        },
    }


def _cell(pairs_of: Any) -> Any:
    def cell(sizes: Sizes, say: Say) -> dict[str, Any]:
        found = trained(sizes, pairs_of(sizes))
        say(f"agreement {np.mean(found.agreement):.3f}")
        numbers = model_numbers(found, sizes)
        say(f"best of n: gold {np.round(np.mean(numbers['best_of_n']['gold'], axis=0), 3)}")
        _, learnt = learn_from(
            found.model.score, found.params, sizes, say, measured=measure_and_ask
        )
        answers = learnt.pop("answers"), learnt.pop("answers_gold"), learnt.pop("answers_proxy")
        at = int(np.argmax(curves.mean(learnt["gold"])))
        prompts = np.asarray(_victims(sizes))
        return numbers | {
            "pairs": pairs_of(sizes),
            "learnt": learnt,
            "answers": _answers(sizes, found, prompts, answers, learnt["marks"], at),
        }

    return cell


EXPERIMENT = Experiment(
    "overoptimisation",
    {"many": _cell(lambda sizes: sizes.pairs), "few": _cell(lambda sizes: sizes.few_pairs)},
    MODELS + BEST + LEARNT,
)


def _victims(sizes: Sizes) -> Any:
    """Prompts whose answers are kept, [_VICTIMS, P], the same for all seeds."""
    return sizes.env().held_out(jax.random.key(11), _VICTIMS)


def measure_and_ask(learner: Any, state: Any, key: Any, sizes: Sizes) -> dict[str, Any]:
    """Returns what `measure` does, and the answers to a few prompts, their gold and proxy."""
    prompts = _victims(sizes)
    found = learner.respond(state.params, prompts, jax.random.fold_in(key, 1))
    proxy = learner.reward.of_tokens(prompts, found.tokens, found.length)
    return measure(learner, state, key, sizes) | {
        "answers": found.tokens,
        "answers_gold": gold_of(sizes, prompts, found)[0],
        "answers_proxy": jnp.sum(proxy, axis=1),
    }


def _answers(
    sizes: Sizes, found: Trained, prompts: Any, answers: Any, marks: list[int], at: int
) -> list[dict[str, Any]]:
    """Returns the policies' answers at first, at the peak of gold and in the end, and the right answer, with scores."""
    env = sizes.env()
    right = env.solutions(jnp.asarray(prompts))
    lengths = jnp.full(len(prompts), right.shape[1], jnp.int32)
    score = over_seeds(
        lambda params: found.model.score(params, jnp.asarray(prompts), right, lengths)
    )
    scores = np.asarray(score(found.params))
    tokens, gold, proxy = answers
    return [
        {
            "seed": seed,
            "prompt": env.decode(prompt),
            "right": env.decode(right[i]),
            "right_proxy": scores[seed, i],
            "given": {
                str(marks[mark]): {
                    "answer": env.decode(tokens[seed, mark, i]),
                    "gold": gold[seed, mark, i],
                    "proxy": proxy[seed, mark, i],
                }
                for mark in dict.fromkeys((0, at, len(marks) - 1))
            },
        }
        for seed in range(sizes.seeds)
        for i, prompt in enumerate(prompts)
    ]


def draw(numbers: dict[str, dict[str, Any]], path: Path) -> None:
    """Draws figure 1 at `path`."""
    cells = numbers["overoptimisation"]
    figure = figures.empty(11, 7.6)
    axes = figure.subplots(2, 2)
    for row, cell in zip(axes, cells.values(), strict=True):
        best, learnt = cell["best_of_n"], cell["learnt"]
        title = f"{cell['pairs']} pairs"
        _panel(row[0], np.sqrt(best["kl"]), best, f"Best of n, {title}")
        _panel(row[1], curves.distance(learnt["kl"]), learnt, f"Reinforcement, {title}")
    for (ax_best, ax_learnt), fits in zip(axes, map(fits_of, cells.values()), strict=True):
        _fitted(ax_best, curves.best_of_n_curve, fits["best_of_n"])
        _fitted(ax_learnt, curves.reinforcement_curve, fits["reinforcement"])
    axes[0, 0].legend(frameon=False, fontsize=8.5, loc="lower right")
    figures.save(figure, path)


def fits_of(cell: dict[str, Any]) -> dict[str, Any]:
    """Returns Gao et al.'s fits of gold's gain over the first policy: (a, b), gold at first, greatest distance."""
    best, learnt = cell["best_of_n"], cell["learnt"]
    best_gold, gold, kl = (curves.mean(x) for x in (best["gold"], learnt["gold"], learnt["kl"]))
    return {
        "best_of_n": (
            *curves.fit_best_of_n(best["kl"], best_gold - best_gold[0]),
            best_gold[0],
            float(np.sqrt(best["kl"][-1])),
        ),
        "reinforcement": (
            *curves.fit_reinforcement(kl, gold - gold[0]),
            gold[0],
            float(np.sqrt(np.max(kl))),
        ),
    }


def _panel(ax: Any, d: Any, cell: dict[str, Any], title: str) -> None:
    curves.draw_seeds(ax, d, cell["gold"], _COLOURS["gold"], "gold")
    other = ax.twinx()
    curves.draw_seeds(other, d, cell["proxy"], _COLOURS["proxy"], "proxy", linestyle="--")
    ax.plot([], [], "--", color=_COLOURS["proxy"], linewidth=2, label="proxy")
    figures.panel(ax, title, "√KL to the first policy", "gold: share of positions right")
    ax.set_ylim(0.3, 1.0)
    other.set_ylabel("proxy, standard deviations", color=_COLOURS["proxy"])
    other.spines[["top"]].set_visible(False)


def _fitted(ax: Any, curve: Any, fit: tuple[float, float, float, float]) -> None:
    a, b, first, furthest = fit
    d = np.linspace(0.0, furthest, 100)
    ax.plot(
        d, first + curve(d, a, b), ":", color=curves.COLOURS[3], linewidth=1.4, label="fit of gold"
    )


def words(numbers: dict[str, dict[str, Any]]) -> list[str]:
    """Returns the lines below figure 1."""
    lines = [
        "Two answers of the imitated policy to each prompt, the better one by gold chosen (ties left out); a "
        "Bradley-Terry model of them is the proxy, in standard deviations of the first policy's answers. Thick: mean "
        "of the seeds. Dotted: the fits of Gao et al. 2022 (https://arxiv.org/abs/2210.10760) to the mean gold's "
        "gain over the start, d = √KL: d (a - b d) for best-of-n, d (a - b log d) for reinforcement (GRPO, no KL "
        "penalty).",
        "",
    ]
    for cell in numbers["overoptimisation"].values():
        best, learnt, fits = cell["best_of_n"], cell["learnt"], fits_of(cell)
        lines += [
            f"**{cell['pairs']} pairs**: the model agrees with gold on {curves.span(cell['agreement'])} of new pairs. "
            f"{_told('Best of n', best, [f'n = {n}' for n in best['n']])} Fit: a = {fits['best_of_n'][0]:.2f}, "
            f"b = {fits['best_of_n'][1]:.3f}. "
            f"{_told('Reinforcement', learnt, [f'iteration {i}' for i in learnt['marks']])} Its KL in the end is "
            f"{curves.mean(learnt['kl'])[-1]:.1f} nats. Fit: a = {fits['reinforcement'][0]:.2f}, "
            f"b = {fits['reinforcement'][1]:.2f}.",
            "",
        ]
    return lines[:-1]


def _told(what: str, cell: dict[str, Any], marks: list[str]) -> str:
    """A sentence on a rise and fall."""
    at, first, highest, last = curves.peak(cell["gold"])
    proxy = curves.mean(cell["proxy"])
    rise = f"{what}: gold rises from {first:.2f} to {highest:.2f} ({marks[at]})"
    if highest - last <= 0.005:
        return f"{rise} and does not fall; the proxy goes from {proxy[0]:+.2f} to {proxy[-1]:+.2f}."
    return (
        f"{rise} and falls by {highest - last:.2f} to {last:.2f}, while the proxy goes from {proxy[0]:+.2f} over "
        f"{proxy[at]:+.2f} to {proxy[-1]:+.2f}."
    )


def answer_words(numbers: dict[str, dict[str, Any]]) -> list[str]:
    """Returns the lines of section 5: what the policies answered."""
    lines = [
        "The same prompts at first, where the seed's mean gold was highest, and in the end; in parentheses gold "
        "(share of positions right) and proxy (standard deviations). The last column has the proxy of the right "
        "answer: where the final answer's is higher, the model has been fooled.",
        "",
    ]
    for cell in numbers["overoptimisation"].values():
        rows = []
        for answer in cell["answers"]:
            marks = list(answer["given"])
            shown = [_shown(answer["given"][mark]) for mark in (marks[0], marks[-2], marks[-1])]
            right = f"`{_digits(answer['right'])}` ({answer['right_proxy']:+.1f})"
            rows.append([answer["seed"], f"`{_digits(answer['prompt'])}`", *shown, right])
        head = ["seed", "prompt", "first", "best gold", "end", "right answer"]
        fooled = [
            list(x["given"].values())[-1]["proxy"] > x["right_proxy"] for x in cell["answers"]
        ]
        lines += [f"**{cell['pairs']} pairs**", "", *table(head, rows, str), ""]
        lines += [
            f"The model scores {sum(fooled)} of the {len(fooled)} final answers above the right one.",
            "",
        ]
    return lines[:-1]


def _shown(given: dict[str, Any]) -> str:
    return f"`{_digits(given['answer'])}` ({given['gold']:.2f}, {given['proxy']:+.1f})"


def _digits(text: str) -> str:
    return text.replace(" <eos>", "").replace(" =", "").replace("<pad>", "_")


FIGURE_1 = Figure(
    "1", "overoptimisation", "1. Gold and proxy against distance", (EXPERIMENT,), draw, words
)
FIGURE_5 = Figure(
    "5", "answers", "5. Answers that the reward model falls for", (EXPERIMENT,), None, answer_words
)
