"""What all results have in common: the protocol that repeats them, a line in a table, and a form for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Result:
    """Base of the results.

    Attributes:
        protocol: what is needed to repeat it: data, normalisation, settings, seeds, and what counts where several
            were looked at. Strings, numbers, lists and dicts alone.
    """

    protocol: dict[str, Any]

    @property
    def scores(self) -> dict[str, float]:
        """The numbers that stand for the result in a table, by their names."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: the scores, and every attribute but tensors, which tell of single images."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        told = {name: _plain(value) for name, value in named.items() if not isinstance(value, Tensor)}
        protocol = told.pop("protocol")
        return {"scores": self.scores, **told, "protocol": protocol}


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
