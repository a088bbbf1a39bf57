"""Gradients of a Keras model on given examples, without a trace on the model."""

from __future__ import annotations

from tfbatch.gradients.hessian import HessianProduct
from tfbatch.gradients.loss import why_not
from tfbatch.gradients.model_state import state_restored
from tfbatch.gradients.squared_norms import LayerNorms, SquaredNorms

__all__ = ["HessianProduct", "LayerNorms", "SquaredNorms", "state_restored", "why_not"]
