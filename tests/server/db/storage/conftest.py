"""The strategies, each in turn."""

import pytest

from server.db.storage import strategies
from server.db.storage.base import Storage


@pytest.fixture
def database(empty_database: str) -> str:
    """Here each strategy makes its tables itself."""
    return empty_database


@pytest.fixture(params=strategies.STRATEGIES)
def storage(request: pytest.FixtureRequest) -> Storage:
    """A strategy; a test that asks for it holds for all of them."""
    return strategies.storage(request.param)
