"""What holds for every test: in CI nothing is skipped for want of a component."""

import os

import pytest
from hypothesis import HealthCheck, settings

from tests import mongod as server_of_documents

# No limit of time for an example, and the same examples each time; `--hypothesis-profile explore`: others.
settings.register_profile(
    "tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", parent=settings.get_profile("tests"), derandomize=False)
settings.load_profile("tests")

MAY_SKIP = "may_skip"


def in_ci():
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def refused(report, item):
    """Make a skip a failure, unless its test says on a marker why it may skip anywhere."""
    expected = hasattr(report, "wasxfail") or (item is not None and item.get_closest_marker(MAY_SKIP))
    if report.skipped and in_ci() and not expected:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow (tests/install-system-packages): {reason}"


@pytest.fixture(scope="session")
def mongod(tmp_path_factory):
    """The document server of this worker."""
    try:
        server = server_of_documents.start(tmp_path_factory.mktemp("mongod"))
    except server_of_documents.CannotBuild as error:
        pytest.skip(str(error))
    yield server
    server.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    refused(report, item)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    refused(report, None)
    return report
