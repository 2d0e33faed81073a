"""Options of the benchmarks."""


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="a few small sizes, in about a minute")
