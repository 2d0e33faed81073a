"""The report's section on gradient caching, from a stored result."""

from __future__ import annotations

from typing import Any

from texts import memory_text, paragraphs, provenance

PLOTS: dict[str, str] = {}


def section(result: dict[str, Any]) -> str:
    """The Markdown of one machine."""
    at = {(row["m"], row["chunk_size"]): row["peak_mib"] for row in result["rows"]}
    chunk = max(size for _, size in at)
    lines = [
        f"**{result['environment']['machine_name']}**: peak extra memory of an optimizer step of SimCLR, small ResNet, "
        "digits.",
        "",
        f"| 2N | chunks of {chunk} | whole |",
        "|---:|---:|---:|",
    ]
    for m in sorted({m for m, _ in at}):
        whole = memory_text(at[m, 0]) if (m, 0) in at else "not run"
        lines.append(f"| {m} | {memory_text(at[m, chunk])} | {whole} |")
    return paragraphs([*lines, "", provenance(result)])
