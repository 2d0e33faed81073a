"""Options of the benchmarks, and the names of their files."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="a few small sizes, in a minute or two")


def pytest_collect_file(file_path, parent):
    """Collect bench_*.py where the folder is given; a file that is named itself is collected anyhow."""
    if file_path.match("bench_*.py") and not parent.session.isinitpath(file_path):
        return pytest.Module.from_parent(parent, path=file_path)
    return None
