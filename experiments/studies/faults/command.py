"""The study as a command: sessions on disk as they end, and the page that shows them."""

from __future__ import annotations

import signal
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.actors.cluster import require_cores, require_ray
from experiments.console import outputs
from experiments.pages import markdown
from experiments.run import folders, schema
from experiments.run.compile_cache import keep_programs
from experiments.run.provenance import provenance, short_commit
from experiments.studies.faults import actors, learner
from experiments.studies.faults.session import ACTORS, ALGO, ENDS, ENV, SETTINGS, Session
from experiments.studies.numbers import compact, rounded

FILE, NOTES = "faults.json", "notes.md"
COMMAND = "python -m experiments.studies faults"
EACH = 20  # faults of a kind
PER_SESSION = {"killed": 10, "hung": 10, "learner": 5}
_TITLE, _BEGIN = "# Faults of actors and of the learner\n", '{\n "study": "faults"'
_HUNG = f"an actor hangs (SIGSTOP), and is given up after {actors.HANG_SECONDS:.0f} s"
KINDS: dict[str, tuple[str, Callable[[int, int], Session]]] = {
    "killed": ("an actor is killed (SIGKILL)", lambda n, s: actors.session(signal.SIGKILL, n, s)),
    "hung": (_HUNG, lambda n, s: actors.session(signal.SIGSTOP, n, s)),
    "learner": ("the learner is killed (SIGKILL), and resumed", learner.session),
}
_COUNTS = ("asked", *ENDS, "open")
_SECONDS = schema.Maybe(schema.Number(0.0))
_SESSION = schema.Table(
    {
        "kind": schema.TEXT,
        "command": schema.TEXT,
        "commit": schema.Maybe(schema.TEXT),
        "machine": schema.SETTINGS,
        "faults": schema.ListOf(schema.Table({"recovery_s": _SECONDS, "clean_s": _SECONDS})),
        "counts": schema.Table({name: schema.Number() for name in _COUNTS}),
        "checks": schema.SETTINGS,
    }
)
_STUDY = schema.Table({"study": schema.TEXT, "sessions": schema.TableOf(_SESSION)})

Sessions = dict[str, dict[str, Any]]  # "kind/seed": what `_SESSION` says


def run(out: Path, *, quick: bool, fresh: bool, say: Callable[[str], None]) -> None:
    """Runs the sessions that `out` lacks, and writes each, and the page, as soon as it has ended.

    Raises ValueError in one line where Ray or cores are missing, and where `out` has files of somebody else.
    """
    require_ray()
    require_cores(ACTORS)
    ours = {outputs.PAGE: is_page, FILE: is_record}
    outputs.check(out, ours)
    sessions = {} if fresh else stored(out)
    keep_programs()  # as a run does: an actor that is started again need not compile
    sizes = dict.fromkeys(PER_SESSION, ACTORS) if quick else PER_SESSION
    each = ACTORS if quick else EACH
    for seed in range(each):  # every kind has some as soon as may be
        for kind, (_, strike) in KINDS.items():
            key, size = f"{kind}/{seed}", sizes[kind]
            if key in sessions or seed >= each // size:
                continue
            found = folders.plain(rounded(strike(size, seed).to_json()))
            made_by = {"kind": kind, "command": COMMAND + (" --quick" if quick else "")}
            sessions[key] = made_by | provenance() | found
            with outputs.staged(out, ours) as staged:
                record = {"study": "faults", "sessions": sessions}
                outputs.write(staged / FILE, compact(record))
                outputs.write(staged / outputs.PAGE, page(sessions, _notes(out)))
            say(f"{key}: {_failed(found) or 'all checks hold'}")


def stored(out: Path) -> Sessions:
    """Returns the sessions in `out`. Raises ValueError with one line where their file is damaged."""
    try:
        return schema.read(out / FILE, _STUDY)["sessions"]
    except FileNotFoundError:
        return {}


def page(sessions: Sessions, notes: str = "") -> str:
    """Returns the page of sessions. `notes`: what a person has to say about them."""
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in SETTINGS.items())
    lines = [_TITLE]
    lines += [
        f"{ENV} by {ALGO.upper()} with {ACTORS} actors ({settings.replace('(8,)', '8')}); "
        "faults at random moments, some in each run, then its account. The two actors are struck within two seconds of "
        "one another; a quarter of the learner's faults strike while it starts.",
        "",
        *markdown.code([COMMAND]),
        "",
    ]
    groups = {kind: [s for s in sessions.values() if s["kind"] == kind] for kind in KINDS}
    groups = {kind: group for kind, group in groups.items() if group}
    heads = [
        "fault",
        "faults",
        "gone on from",
        "seconds to go on: median, most",
        "seconds until nothing is left",
    ]
    rows = [[KINDS[kind][0], *_row(group)] for kind, group in groups.items()]
    lines += [*markdown.table(heads, rows, str), ""]
    lines += [
        "Seconds to go on: from the signal to the first rollout of the process that takes the actor's place; from the "
        "start of the command that resumes to a row of metrics beyond all those before, which are again collected from "
        "the last checkpoint on.",
        "",
        "Rollouts, by what became of them (`experiments.actors.meter.Counts`), which adds up to what was asked for:",
        "",
    ]
    heads = ["fault", *(name.replace("_", " ") for name in _COUNTS)]
    rows = [
        [KINDS[kind][0], *(str(sum(s["counts"][name] for s in group)) for name in _COUNTS)]
        for kind, group in groups.items()
    ]
    lines += [*markdown.table(heads, rows, str), "", "Checked at the end of each run:", ""]
    lines += [f"- {KINDS[kind][0]}: {_checks(group)}." for kind, group in groups.items()]
    lines += ["", *dict.fromkeys(_made_by(s) for s in sessions.values()), ""]
    return "\n".join([*lines, *([notes.strip(), ""] if notes else [])])


def is_page(text: str) -> bool:
    """Tells that `page` wrote a text."""
    return text.startswith(_TITLE) and COMMAND in text


def is_record(text: str) -> bool:
    """Tells that `run` wrote a text."""
    return text.startswith(_BEGIN)


def _row(group: Sequence[dict[str, Any]]) -> list[str]:
    faults = [fault for session in group for fault in session["faults"]]
    recovered = [f["recovery_s"] for f in faults if f["recovery_s"] is not None]
    cleaned = [f["clean_s"] for f in faults if f["clean_s"] is not None]
    return [str(len(faults)), str(len(recovered)), _spread(recovered), _spread(cleaned)]


def _checks(group: Sequence[dict[str, Any]]) -> str:
    held = {name: sum(bool(s["checks"].get(name)) for s in group) for name in group[0]["checks"]}
    always = [name for name, n in held.items() if n == len(group)]
    not_always = [f"{name} in {n} only" for name, n in held.items() if n < len(group)]
    runs = "its run" if len(group) == 1 else f"all its {len(group)} runs"
    return f"in {runs} {'; '.join([', '.join(always), *not_always])}"


def _spread(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.1f}, {max(seconds):.1f}" if seconds else ""


def _failed(session: dict[str, Any]) -> str:
    failed = [name for name, held in session["checks"].items() if not held]
    failed += ["a run does not go on" for f in session["faults"] if f["recovery_s"] is None]
    return f"FAILED: {'; '.join(failed)}" if failed else ""


def _made_by(session: dict[str, Any]) -> str:
    machine = session["machine"]
    commit = short_commit(session["commit"])
    return f"- {session['kind']}: commit {commit}, {machine['cpu']}, {machine['cores']} cores"


def _notes(out: Path) -> str:
    try:
        return (out / NOTES).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
