"""Networks of the paper."""

from repro.models.resnet import build_model

__all__ = ["build_model"]
