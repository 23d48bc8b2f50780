"""Networks of the paper."""

from repro.models.cifar import build_model

__all__ = ["build_model"]
