"""Normalised scores: a return on the scale on which random actions have 0 and an expert 100.

Fu et al. 2020, appendix, https://arxiv.org/abs/2004.07219: 100 (R - R_random) / (R_expert - R_random). Both references
are a dataset's own, measured in the environment it was recorded in. D4RL's numbers, of other versions of three of these
environments, give a second score, to compare sizes with published tables.
"""

from __future__ import annotations

# Environment: mean returns of a random policy and of D4RL's expert.
D4RL: dict[str, tuple[float, float]] = {
    "HalfCheetah-v5": (-280.178953, 12135.0),
    "Hopper-v5": (-20.272305, 3234.3),
    "Walker2d-v5": (1.629008, 4592.3),
}


def normalised(mean_return: float, low: float | None, high: float | None) -> float | None:
    """Returns the score of a return; None where a reference is missing, or both are alike."""
    if low is None or high is None or high == low:
        return None
    return 100.0 * (mean_return - low) / (high - low)


def scores(
    mean_return: float, env: str, low: float | None, high: float | None
) -> dict[str, float | None]:
    """Returns `score`, by the references of a dataset, and `score_d4rl`, by D4RL's where it has any."""
    theirs = D4RL.get(env, (None, None))
    return {
        "score": normalised(mean_return, low, high),
        "score_d4rl": normalised(mean_return, *theirs),
    }
