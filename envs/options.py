"""Options of environments: checks that tasks share, and options whose name a field cannot have."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from typing import Any

from envs.base import Env


def check_options(env: Env) -> None:
    """Raises ValueError for a coefficient that is no finite number, or a range (low, high) with an end that is none.

    Coefficients that are arrays pass: while JAX takes an environment apart and puts it together again, its leaves are
    tracers and placeholders.
    """
    for field in dataclasses.fields(env):  # type: ignore[arg-type]
        value = getattr(env, field.name)
        if not field.metadata.get("pytree_node", True):
            continue
        if isinstance(value, str) or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{field.name} must be a finite number, got {value!r}")
        if isinstance(value, tuple) and any(isinstance(x, float) and math.isnan(x) for x in value):
            raise ValueError(f"{field.name} must be numbers, got {value!r}")


@dataclasses.dataclass(frozen=True)
class RenamedOptions:
    """A factory of environments whose options are the fields of `environment`, some under other names: a field cannot
    be called as one of the class's methods is.

        RenamedOptions(Walker, {"layout": "observation"})(observation="mathworks") == Walker(layout="mathworks")
    """

    environment: type[Env]
    names: Mapping[str, str]  # by field

    @property
    def __signature__(self) -> inspect.Signature:
        parameters = inspect.signature(self.environment).parameters.values()
        return inspect.Signature(
            [p.replace(name=self.names.get(p.name, p.name)) for p in parameters]
        )

    def __call__(self, *positional: Any, **options: Any) -> Env:
        """Raises TypeError for an option that there is not, and what the environment raises."""
        try:
            given = self.__signature__.bind(*positional, **options).arguments
        except TypeError as error:
            raise TypeError(f"{self.environment.__name__}: {error}") from None
        fields = {option: field for field, option in self.names.items()}
        return self.environment(**{fields.get(name, name): x for name, x in given.items()})
