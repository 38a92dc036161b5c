"""A recording under way: rounds of episodes on disk, each a file that is whole or not there, and the dataset at last.

The folder `.NAME.part` beside the dataset's own holds order.json, which says what is recorded, and a file a round. A
recording that was stopped finds its rounds there and goes on; one of another order is refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.episodes import Episode, write_dataset
from experiments.data.store import folder_of
from experiments.run import folders

_ORDER = "order.json"


class Parts:
    """The parts of one recording.

    Args:
      dataset: its name.
      order: what is recorded, in JSON's types.

    Raises ValueError with one line where the dataset exists, or another order is under way; OSError.
    """

    def __init__(self, dataset: str, order: dict[str, Any]):
        self.final = folder_of(dataset)
        if self.final.exists():
            raise ValueError(
                f"there is a dataset {dataset} in {self.final}, which is not overwritten: choose another --id"
            )
        self.folder = self.final.with_name(f".{self.final.name}.part")
        self.order = folders.plain(order)
        begun = self._stored_order()
        if begun is not None and begun != self.order:
            differing = sorted(
                name for name in {*begun, *self.order} if begun.get(name) != self.order.get(name)
            )
            raise ValueError(
                f"a recording of {dataset} was begun with another {' and '.join(differing)}: repeat that command, or "
                f"remove {folders.quoted(self.folder)}"
            )
        self.resumed = begun is not None

    def begin(self) -> None:
        """Makes the folder, unless it is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.resumed:
            folders.write_json(self.folder / _ORDER, self.order)

    def __len__(self) -> int:
        numbers = sorted(
            int(path.stem) for path in self.folder.glob("*.npz") if path.stem.isdigit()
        )
        return next((i for i, n in enumerate(numbers) if i != n), len(numbers))

    def write(self, number: int, episodes: list[Episode]) -> None:
        """Writes a part: never half of one. Raises OSError with the name of the file."""
        path, fresh = self.folder / f"{number:05d}.npz", self.folder / "fresh.tmp"
        lengths = np.array([len(x.rewards) for x in episodes])
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(x, name) for x in episodes]) for name in Episode._fields
        }
        with folders.naming(path):
            with fresh.open("wb") as file:
                np.savez(file, lengths=lengths, **columns)
            fresh.replace(path)

    def read(self, number: int) -> list[Episode]:
        """Returns the episodes of a part."""
        with np.load(self.folder / f"{number:05d}.npz", allow_pickle=False) as stored:
            columns = {name: stored[name] for name in stored.files}
        lengths = columns.pop("lengths")
        ends = np.cumsum(lengths)
        # Observations have one more row an episode.
        shifted = ends + np.arange(1, len(ends) + 1)
        return [
            Episode(
                columns["observations"][shifted[i] - n - 1 : shifted[i]],
                *(columns[name][ends[i] - n : ends[i]] for name in Episode._fields[1:]),
            )
            for i, n in enumerate(lengths)
        ]

    def steps(self) -> int:
        """Returns the steps in all parts."""
        return sum(int(self._lengths(i).sum()) for i in range(len(self)))

    def finish(
        self, most_steps: int | None, spaces: tuple[Any, Any], metadata: dict[str, Any], spec: Any
    ) -> Path:
        """Makes the dataset of the parts, which are removed then, and returns its folder.

        Args:
          most_steps: episodes are taken until there are so many steps; None: all of them.
          spaces: of observations and actions.
          spec: Gymnasium's, of the environment; None: it has none.
        """
        fresh = self.folder / "dataset"
        shutil.rmtree(fresh, ignore_errors=True)
        with folders.naming(fresh):
            write_dataset(fresh, self._taken(most_steps), *spaces, metadata, spec)
            self.final.parent.mkdir(parents=True, exist_ok=True)
            fresh.rename(self.final)
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.final

    def _taken(self, most_steps: int | None) -> Iterator[list[Episode]]:
        steps = 0
        for i in range(len(self)):
            kept = []
            for episode in self.read(i):
                if most_steps is not None and steps >= most_steps:
                    break
                steps += len(episode.rewards)
                kept.append(episode)
            if kept:
                yield kept

    def _lengths(self, number: int) -> np.ndarray:
        with np.load(self.folder / f"{number:05d}.npz", allow_pickle=False) as stored:
            return stored["lengths"]

    def _stored_order(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.folder / _ORDER).read_text())
        except (FileNotFoundError, ValueError):
            return None
