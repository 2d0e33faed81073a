"""The report's section on what the methods learn, from a stored result."""

from __future__ import annotations

from typing import Any

from texts import paragraphs, provenance, short_commit

PLOTS: dict[str, str] = {}


def section(result: dict[str, Any]) -> str:
    """The Markdown of one machine."""
    lines = [
        "`fastssl pretrain METHOD --data shapes --epochs N` with the defaults for small images, one run each, on "
        f"{result['environment']['machine_name']}: accuracy of the trained encoder on the test images in %, and in "
        "brackets that of the same encoder before.",
        "",
        "| method | epochs | batch | minutes | kNN | linear, 10 labels a class | linear, all labels | commit |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in result["rows"]:
        cells = [f"{after:.1f} ({before:.1f})" for after, before in (row["knn"], row["few"], row["all"])]
        numbers = [str(row["epochs"]), str(row["batch_size"]), f"{row['minutes']:.1f}", *cells, short_commit(row)]
        lines.append(f"| `{row['method']}` | {' | '.join(numbers)} |")
    return paragraphs([*lines, "", provenance(result)])
