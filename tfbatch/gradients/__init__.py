"""Gradients of a Keras model on given examples, without a trace on the model."""

from __future__ import annotations

from tfbatch.gradients.hessian import HessianProduct
from tfbatch.gradients.layer_norms import LayerNorms
from tfbatch.gradients.squared_norms import SquaredNorms, why_not
from tfbatch.gradients.untouched import untouched

__all__ = ["HessianProduct", "LayerNorms", "SquaredNorms", "untouched", "why_not"]
