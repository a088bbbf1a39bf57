"""Augmentations of image batches, one file each.

A file holds `Parameters`, a `tfbatch.schema.Strict` with the arguments that a recipe may give, and
`augment(images, draws, parameters)`: uint8 [batch, height, width, channels] in and out, with
`draws` uint32 [batch, 4], four uniform random words for each example. The words depend on the
seed and on the example's position in the stream alone, so that the same example is changed in the
same way whatever the batch size. An augmentation works on the whole batch, never on one example.
"""

from __future__ import annotations

from tfbatch.registry import Registry

AUGMENTATIONS = Registry(__name__, kind="augmentation", folder=__path__)

__all__ = ["AUGMENTATIONS"]
