"""Trains on sorting in another checkout of this project when told to: tokens_worker.py DIR sort LEARNER

Reads lines of seconds, answers each with tokens per second. Runs the checkout's own code and benchmark.
"""

import contextlib
import importlib
import sys

from rival_worker import serve  # type: ignore[import-not-found]  # which takes this folder off the path

# Where a checkout has its benchmark, the newest place first.
BENCHMARKS = ("experiments.benchmarks.tokens", "experiments.bench_tokens")


def main():
    folder, _, learner = sys.argv[1:]
    sys.path.insert(0, folder)
    # An editable install would lend the checkout the folders that it lacks.
    sys.meta_path[:] = [x for x in sys.meta_path if not x.__module__.startswith("__editable__")]
    import experiments

    if not experiments.__file__.startswith(folder):
        raise SystemExit(f"{folder} is no checkout: it has no package experiments")
    with contextlib.redirect_stdout(sys.stderr):
        run = benchmark().learning(learner)
    serve(run)


def benchmark():
    """Returns the checkout's benchmark of tokens."""
    for name in BENCHMARKS:
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    raise SystemExit(f"it has none of {', '.join(BENCHMARKS)}")


if __name__ == "__main__":
    main()
