"""Suggestions for names that are mistyped, or come from another library."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from agents.settings import shortened

# Flags as other libraries and papers have them, by the flags of ours that may be meant: the first that a command has.
_ELSEWHERE = {
    "learning-rate": "lr step-size alpha-lr policy-lr actor-lr critic-lr",
    "step-size": "lr learning-rate alpha",
    "learning-rate-schedule": "lr-schedule anneal-lr lr-decay",
    "total-steps": "steps timesteps total-timesteps num-timesteps n-timesteps max-steps max-timesteps env-steps "
    "train-steps training-steps total-env-steps total-tokens frames total-frames num-frames iterations "
    "num-iterations max-iters max-iterations num-updates updates",
    "num-envs": "n-envs nenvs envs num-env n-env num-workers n-workers num-actors",
    "num-responses": "n-envs num-samples num-rollouts rollout-batch-size batch-size train-batch-size",
    "num-steps": "n-steps nsteps rollout-length rollout-steps unroll-length horizon steps-per-env rollout",
    "num-epochs": "epochs n-epochs nepochs update-epochs ppo-epochs noptepochs num-sgd-iter",
    "value-epochs": "epochs n-epochs num-epochs n-critic-updates vf-iters train-v-iters",
    "num-minibatches": "minibatches n-minibatches nminibatches num-mini-batch minibatch batch-size minibatch-size "
    "mini-batch-size",
    "batch-size": "batch minibatch-size mini-batch-size train-batch-size sample-batch-size",
    "micro-batches": "gradient-accumulation-steps grad-accum",
    "buffer-size": "buffer replay-size replay-buffer-size replay memory memory-size capacity buffer-capacity",
    "update-ratio": "gradient-steps utd utd-ratio updates-per-step replay-ratio train-freq train-frequency",
    "warmup-steps": "learning-starts start-steps start-timesteps random-steps init-steps warmup",
    "gamma": "discount discount-factor discounting",
    "gae-lambda": "gae lam lambda gae-lam td-lambda",
    "q-lambda": "lam lambda td-lambda trace-decay",
    "hidden-sizes": "hidden hidden-size hidden-dim hidden-dims hidden-layers hidden-units net-arch layers width "
    "network mlp-layers",
    "width": "hidden hidden-size hidden-dim d-model embed-dim n-embd dim",
    "layers": "n-layers num-layers depth n-layer blocks hidden-layers",
    "heads": "n-heads num-heads n-head attention-heads",
    "mlp-width": "ffn-dim d-ff intermediate-size ffn-width",
    "entropy-coefficient": "ent-coef ent-coeff entropy-coef entropy-coeff entropy-cost entropy-weight entropy "
    "entropy-bonus",
    "alpha": "ent-coef entropy-coef temperature entropy-coefficient",
    "value-coefficient": "vf-coef value-coef value-coeff value-loss-coef value-cost critic-coef vf-coeff",
    "clip-ratio": "clip clip-range clip-coef clip-eps clip-epsilon eps-clip cliprange clip-param",
    "clip-high": "clip clip-range clip-coef clip-eps clip-epsilon eps-clip cliprange epsilon-high clip-ratio",
    "clip-value": "clip-range-vf clip-vloss cliprange-value vf-clip vf-clip-param",
    "stop-kl": "target-kl kl-target-stop",
    "max-kl": "target-kl delta trust-region kl-bound",
    "kl-coefficient": "kl-coef kl-coeff beta kl-beta init-kl-coef kl-weight kl",
    "kl-in-reward": "kl-coef kl-coeff beta init-kl-coef kl-penalty kl",
    "max-grad-norm": "grad-clip clip-grad gradient-clip max-grad grad-norm clip-grad-norm gradient-clipping",
    "cg-iterations": "cg-iters cg-max-steps cg-steps",
    "damping": "cg-damping fisher-damping",
    "epsilon-fraction": "exploration exploration-fraction eps-decay epsilon-decay eps-fraction exploration-steps",
    "epsilon-end": "eps epsilon exploration-final-eps final-epsilon eps-end epsilon-min min-epsilon end-e",
    "epsilon-start": "exploration-initial-eps initial-epsilon eps-start start-e",
    "exploration-noise": "exploration action-noise noise expl-noise sigma",
    "target-noise": "policy-noise target-policy-noise",
    "target-noise-clip": "noise-clip",
    "policy-delay": "policy-frequency policy-freq actor-delay",
    "target-period": "target-update-interval target-update target-update-freq target-network-frequency",
    "tau": "polyak target-tau soft-update",
    "group-size": "group num-generations samples-per-prompt n-samples",
    "initial-log-std": "log-std log-std-init init-log-std std",
    "normalize-observations": "norm-obs normalize-obs obs-norm normalize normalize-env",
    "normalize-returns": "norm-reward norm-rewards normalize-reward normalize-rewards reward-norm scale-rewards",
    "prioritized": "per prioritized-replay priority",
    "n-step": "nstep multi-step n-steps td-steps",
    "max-episode-steps": "episode-length max-episode-length time-limit max-ep-len episode-steps",
    "seed": "random-seed rng-seed",
    "seeds": "n-seeds num-seeds runs num-runs repeats",
    "out": "output output-dir out-dir log-dir logdir save-dir dir folder save-path run-dir",
    "resume": "continue load restore checkpoint load-dir",
    "video": "render record capture-video save-video record-video",
    "track": "wandb use-wandb tensorboard logger log-to",
    "env": "environment env-id env-name gym-id task id",
    "task": "env environment env-id dataset",
    "algo": "algorithm agent alg learner method",
}


def suggestion(name: str, valid: Iterable[str]) -> str:
    """Returns the end of a sentence about an unknown name: the nearest valid one, or all of them."""
    valid = sorted(valid)
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"choose from {', '.join(valid)}"


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns the three valid names nearest to an unknown one, or the first five where none is near, with commas; ""
    where there is none."""
    valid = sorted(valid)
    return ", ".join(difflib.get_close_matches(name, valid, n=3, cutoff=0.3) or valid[:5])


def flag_suggestion(flag: str, valid: Collection[str]) -> str:
    """Returns the end of a sentence about an unknown flag; knows what other libraries call the flags in `valid`."""
    bare = flag.lstrip("-").replace("_", "-").lower()
    meant = [f"--{ours}" for ours, theirs in _ELSEWHERE.items() if bare in theirs.split()]
    near = [ours for ours in meant if ours in valid] or difflib.get_close_matches(flag, valid, n=1)
    return f"did you mean {near[0]}?" if near else "see --help"


def quoted(text: str) -> str:
    """Returns a given text in quotes for a message, shortened where it is very long."""
    return repr(shortened(text))
