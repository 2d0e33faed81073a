"""The report's section on what the methods learn, from a stored result."""

from __future__ import annotations

from typing import Any

from texts import paragraphs, provenance

from fastssl._cli_methods import METHODS
from fastssl._compare_table import markdown

# The picture that each run leaves of what its method does.
PLOTS = {name: f"{name}: {method.help}" for name, method in METHODS.items()}


def section(result: dict[str, Any]) -> str:
    """The Markdown of one machine."""
    where, minutes = result["environment"]["machine_name"], result["seconds"] / 60
    lines = [
        f"`{result['command']}` on {where}, {minutes:.0f} minutes in all: one run each, from one seed, with the "
        "defaults for small images. Every judgement of the trained encoder, and in brackets that of the same encoder "
        "before; shares in %.",
        "",
        markdown(result["rows"]),
        provenance(result),
    ]
    return paragraphs(lines)
