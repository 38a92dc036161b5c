"""The table of worst errors against Gymnasium: python -m tests.envs.parity_table [MJX_TASK ...] > results/parity.md

The parity tests assert bounds on the same comparisons. Tasks named are compared on mjx too.
"""

import sys

from tests.envs.classic import parity as classic
from tests.envs.gymnasium_mujoco import parity as mujoco

HEAD = """# Worst errors against Gymnasium, step by step

`python -m tests.envs.parity_table Pusher-v5 Hopper-v5 Walker2d-v5` (those on mjx too). Random actions (classic control:
scripted policies too), Gymnasium's own initial states. Errors are relative: MuJoCo's to max(1, size), classic
control's to the largest size of the quantity. "Same state" means Gymnasium's, rounded to float32, at every step: what
is left is the rounding of the results to float32, about 6e-8; mjx computes in float32 throughout.
The cold start of our solver against Gymnasium's warm one shows only where contacts are iterated on.
"""


def table(rows: list[dict], columns: tuple[str, ...]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(_cell(row[name]) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "equal" if value else "differ"
    return f"{value:.1e}" if isinstance(value, float) else str(value)


def main() -> None:
    print(HEAD)
    print("## Classic control\n")
    columns = ("env", "precision", "what", "steps", "obs", "reward", "terminations_equal")
    print(table(classic.worst_errors(), columns))
    print("\n## MuJoCo\n")
    columns = ("env", "engine", "note", "steps", "obs", "reward", "terminations_equal")
    print(table(mujoco.worst_errors(mjx_tasks=tuple(sys.argv[1:])), columns))


if __name__ == "__main__":
    main()
