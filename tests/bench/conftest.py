"""Configurations of these tests are composed once: Hydra takes longer for one than most of the tests."""

import functools

import pytest

from repro.bench import plan
from repro.config import compose


@functools.cache
def composed(overrides):
    return compose(overrides)


@pytest.fixture(autouse=True)
def composed_once(monkeypatch):
    monkeypatch.setattr(plan, "compose", lambda overrides: composed(tuple(overrides)))
