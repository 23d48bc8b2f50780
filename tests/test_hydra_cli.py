"""Hydra's own flags on a Python whose argparse checks help texts, as 3.14 does."""

import argparse
from types import SimpleNamespace

import pytest

from repro.hydra_cli import admit_lazy_help


def strict_check(self, action):
    """Like Python 3.14's: expands the text, which Hydra's lazy help object does not bear."""
    if "%(nothing)s" in action.help:
        raise ValueError("badly formed help string")


@pytest.fixture
def checking_argparse(monkeypatch):
    monkeypatch.setattr(argparse.ArgumentParser, "_check_help", strict_check, raising=False)


def test_lazy_help_objects_fail_without_the_cure(checking_argparse):
    with pytest.raises(TypeError):
        argparse.ArgumentParser()._check_help(SimpleNamespace(help=object()))


def test_lazy_help_objects_pass_and_texts_are_still_checked(checking_argparse):
    admit_lazy_help()
    admit_lazy_help()
    parser = argparse.ArgumentParser()
    parser._check_help(SimpleNamespace(help=object()))
    parser._check_help(SimpleNamespace(help="good"))
    with pytest.raises(ValueError, match="badly formed"):
        parser._check_help(SimpleNamespace(help="%(nothing)s"))


def test_nothing_is_changed_where_argparse_does_not_check(monkeypatch):
    monkeypatch.delattr(argparse.ArgumentParser, "_check_help", raising=False)
    admit_lazy_help()
    assert not hasattr(argparse.ArgumentParser, "_check_help")
