"""Gradients of a Keras model on given examples, without a trace on the model."""

from __future__ import annotations

from tfbatch.gradients.hessian import HessianProduct
from tfbatch.gradients.loss import why_not
from tfbatch.gradients.squared_norms import LayerNorms, SquaredNorms
from tfbatch.gradients.untouched import untouched

__all__ = ["HessianProduct", "LayerNorms", "SquaredNorms", "untouched", "why_not"]
