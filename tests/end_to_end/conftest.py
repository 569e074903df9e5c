"""Daemons for tests."""

import pytest

from tests.end_to_end.daemon import Daemon


@pytest.fixture
def daemon(tmp_path):
    """Starts daemons, of another class where that is given; they are killed after the test."""
    started = []

    def start(*arguments, kind=Daemon, **options):
        started.append(kind(tmp_path, *arguments, **options))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        one.process.stdout.close()
