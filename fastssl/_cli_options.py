"""Options of the command line whose defaults depend on the size of the images."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

# Keeps argparse's formatter from printing "(default: None)" where the help tells the default in words.
NO_DEFAULT: dict[str, Any] = {"default": argparse.SUPPRESS}


@dataclass(frozen=True)
class Option:
    """An option ``--some-name`` that is the argument `some_name` of a method.

    That of a bool takes no value and says the contrary of the default, by ``--no-some-name`` if that is True; where the
    default depends on the images there are both.
    """

    name: str
    help: str
    default: Any  # the method's own
    small: Any = None  # for images up to 64 pixels
    kind: type | None = None  # where the default does not tell
    count: int | None = None  # of values, where it does not tell
    choices: tuple[str, ...] | None = None
    told: str | None = None  # the default in words, where no one value is it
    where: str = "small images"  # what wants `small`

    def add_to(self, parser: Any) -> None:
        """Add the option; what is not given is not in the result, and is left to `small` and the method."""
        default = self.default
        if isinstance(default, bool) and self.small is None:
            parser.add_argument(
                self._flag("no-" if default else ""), dest=self.name, action="store_const", const=not default,
                help=self.help, **NO_DEFAULT,
            )  # fmt: skip
            return
        values: dict[str, Any] = {"type": self.kind or type(default), "choices": self.choices, "nargs": self.count}
        if isinstance(default, tuple):
            values.update(type=type(default[0]), nargs=len(default))
        elif isinstance(default, bool):
            values = {"action": argparse.BooleanOptionalAction}
        told = _in_words(default) if self.told is None else self.told
        if self.small is not None:
            told += f"; {_in_words(self.small)} for {self.where}"
        parser.add_argument(self._flag(), help=f"{self.help} (default: {told})", **values, **NO_DEFAULT)

    def _flag(self, start: str = "") -> str:
        return f"--{start}{self.name}".replace("_", "-")


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def small_values(options: tuple[Option, ...]) -> dict[str, Any]:
    """Return the values that images up to 64 pixels want, with a small encoder.

    The published ones are for large images and much data.
    """
    return {option.name: option.small for option in options if option.small is not None}
