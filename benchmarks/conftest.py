"""Options of the benchmarks, the names of their files, and one test a problem of a file's `BENCHMARK`."""

import pytest
from environment import RESULTS, ROOT
from harness import UNSTORED, Collector, default_device


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="a few small sizes, in a minute or two")


def pytest_collect_file(file_path, parent):
    """Collect bench_*.py where the folder is given; a file that is named itself is collected anyhow."""
    if file_path.match("bench_*.py") and not parent.session.isinitpath(file_path):
        return pytest.Module.from_parent(parent, path=file_path)
    return None


def pytest_generate_tests(metafunc):
    if "problem" in metafunc.fixturenames:
        todo = metafunc.module.BENCHMARK.problems(default_device(), metafunc.config.getoption("--quick"))
        metafunc.parametrize("problem", todo, ids=lambda p: p.label)


@pytest.fixture
def aloud(request):
    """Prints reach the terminal, although pytest holds back what tests print."""
    return request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled


@pytest.fixture(scope="module")
def collector(request):
    """Gather the rows of all tests of a module, and write them when the last has run."""
    benchmark, quick = request.module.BENCHMARK, request.config.getoption("--quick")
    gathered = Collector(benchmark, default_device())
    yield gathered
    if not gathered.rows:
        return
    whole = not quick and gathered.done == set(benchmark.problems(gathered.device, quick))
    command = f"pytest benchmarks/bench_{benchmark.op}.py{' --quick' if quick else ''}"
    path = gathered.write(RESULTS if whole else UNSTORED, command)
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{path.relative_to(ROOT)}")


@pytest.fixture
def measured(problem, collector, aloud, request):
    """The rows of a problem; pytest-benchmark's table shows fastssl's own call, its JSON all rows."""
    with aloud():
        print()
        rows = collector.measure(problem)
    if request.config.pluginmanager.hasplugin("benchmark"):
        table = request.getfixturevalue("benchmark")
        table.extra_info["rows"] = rows
        table.pedantic(collector.benchmark.own(problem, collector.device), rounds=3, warmup_rounds=0)
    return rows
