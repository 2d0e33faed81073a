"""The command ``fastssl compare``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ._cli_methods import METHODS
from ._cli_options import NO_DEFAULT


def add_parsers(commands: Any, settings: dict[str, Any]) -> None:
    """Add the parser of the command."""
    p = commands.add_parser(
        "compare",
        help="train methods small, from one seed, and judge all their encoders alike",
        description="Train methods one after the other, and judge their encoders before and after in the same way. The "
        "same command again goes on where this one was stopped.",
        **settings,
    )
    p.add_argument(
        "--methods", nargs="+", metavar="METHOD", required=True, help="all, or some of pretrain", **NO_DEFAULT
    )
    p.add_argument(
        "--data", required=True, help="shapes, digits, photos, or a folder with a sub-folder a class", **NO_DEFAULT
    )
    p.add_argument(
        "--epochs", type=int, help="passes through the data (default: by method, for minutes on a CPU)", **NO_DEFAULT
    )
    p.add_argument("--seed", type=int, default=0, help="of everything")
    p.add_argument("--out", help="folder of the comparison (default: runs/compare-DATA)", **NO_DEFAULT)
    p.add_argument("--overwrite", action="store_true", help="replace the comparison in --out")
    p.add_argument("--quiet", action="store_true", help="print the tables alone")
    p.set_defaults(run=compare)


def compare(args: argparse.Namespace) -> None:
    """Run ``fastssl compare``."""
    from ._extras import require

    for module in ("torch", "lightning.pytorch", "timm", "sklearn"):
        require(module, "fastssl compare")
    from ._compare import compare as run
    from ._compare_table import markdown

    given = vars(args)
    names = [name for each in args.methods for name in each.split(",")]
    names = list(METHODS) if names == ["all"] else names
    out = Path(given.get("out") or Path("runs") / f"compare-{Path(args.data).name}")
    rows = run(
        names, args.data, epochs=given.get("epochs"), seed=args.seed, out=out, overwrite=args.overwrite,
        progress=not args.quiet,
    )  # fmt: skip
    print(f"\n{markdown(rows)}\nwritten  {out / 'compare.md'}, {out / 'compare.json'}")
    failed = [row["method"] for row in rows if "error" in row]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(rows)} methods failed: {', '.join(failed)}")
