"""Augmentations of image batches, one file each.

A file holds `Parameters`, a `tfbatch.schema.Strict` with the arguments that a recipe may give, and
one of two functions. Its docstring shows a recipe's `augmentation:` with it, which the tests read.

`augment(images, draws, parameters)` changes each image on its own: uint8 [batch, height, width,
channels] in and out, before normalization.

A file that sets `ON_DEVICE = True` says that its `augment` takes images as float32 whole numbers
too and returns such, the same ones, by operations that TensorFlow has for GPUs. These are few of
uint8, and those of int32 run on the host.

`mix(images, labels, partner_images, partner_labels, draws, parameters)` mixes each example with a
partner: float32 images after augmentation and normalization, float32 labels [batch, classes], and
returns such images and labels. The partner of the stream's example number x is example number x of
a second stream of the same data, with a seed and augmentations of its own. A recipe can have one
such file, as the last. All its splits then have one-hot labels.

`draws` are uint32 [batch, 4]: four uniform random words for each example. The words, and the
partner, depend on the seed and on the example's position in the stream alone, so that the same
example is changed in the same way whatever the batch size. An augmentation works on the whole
batch, never on one example.
"""

from __future__ import annotations

from tfbatch.plug_ins import Registry

AUGMENTATIONS = Registry(__name__, kind="augmentation", folder=__path__)

__all__ = ["AUGMENTATIONS"]
