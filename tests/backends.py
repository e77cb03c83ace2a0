"""A mark for tests to which it does not matter where layers and images lie: they run on one host, not on both."""

import pytest

ON_ONE = pytest.mark.parametrize("host", ["either"], indirect=True)
