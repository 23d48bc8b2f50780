"""Networks of the paper."""

from repro.models.build import build_model

__all__ = ["build_model"]
