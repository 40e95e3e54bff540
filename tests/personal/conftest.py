import pytest
from tiny_pipe import pipeline

from minidiff.rng import normal


@pytest.fixture
def pipe():
    return pipeline()


@pytest.fixture
def images():
    return normal((3, 3, 32, 32), "personal test").clamp(-1, 1)
