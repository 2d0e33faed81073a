"""The command ``fastssl report``."""

from __future__ import annotations

import argparse
from typing import Any

from ._cli_options import NO_DEFAULT


def add_parsers(commands: Any, settings: dict[str, Any]) -> None:
    """Add the parser."""
    p = commands.add_parser("report", help="one HTML page of one run or several", **settings)
    p.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, as pretrain leaves it")
    p.add_argument("--out", default="report.html", help="the page to write")
    p.add_argument("--title", help="of the page (default: methods and data)", **NO_DEFAULT)
    p.set_defaults(run=report)


def report(args: argparse.Namespace) -> None:
    """Run ``fastssl report``."""
    from ._report import report as write

    out = write(args.runs, args.out, title=vars(args).get("title"))
    print(f"written  {out}, {out.stat().st_size / 1e3:.0f} kB")
