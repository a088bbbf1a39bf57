"""X14: keypoint detection with a small batch and a large one, on synthetic keypoints.

Each image holds one triangle of random shape, size and place, whose tip, left and right corner are
to be found behind noise and an occlusion. A small network with batch normalization, the plausible
reason why a large batch helps (MegDet: Peng et al. 2018, arXiv 1711.07240), gives a heat map for
each, trained by the cross-entropy to a small spot. Every batch size has the rate with the best AP
of other seeds; every seed has images of its own.

AP is COCO's: the area under precision against recall at 101 points, averaged over the thresholds
0.50, 0.55 to 0.95 of the object keypoint similarity

    OKS = mean over the keypoints of exp(-d^2 / (2 s^2 k^2))

with the distance d in pixels, the area s^2 of the object's box and a constant k.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tfbatch.claims._batch_size_study import Rate
from tfbatch.claims._claim import Claim, Evidence, UntestableError
from tfbatch.claims._pairs import differences
from tfbatch.claims._tuned_rates import Cell, tuned_rates
from tfbatch.errors import InputError

if TYPE_CHECKING:
    import keras

    from tfbatch.claims._court import Court
    from tfbatch.training.context import TaskContext

CARD = "X14"
TITLE = "keypoint detection with a small and a large batch, on synthetic keypoints"
ORDER = 110.0
CLAIMS: tuple[Claim, ...] = ()
SMALL, LARGE = 16, 128
_MARGIN = 0.3
"""Points of AP."""
_SEEDS = 20
"""At least: AP of a small network differs much between seeds."""
_MIDDLE = 0.05
_IMAGES = {"tiny": 512, "small": 2048, "full": 8192}
_EPOCHS = {"tiny": 12, "small": 24, "full": 48}
_TESTED = 512
_SECONDS = 5.0
"""Of a training with 512 images and 12 epochs, about."""

_SIDE = 16
KEYPOINTS = 3
SCATTER = 0.15
"""k in OKS."""
_SPOT = 1.0
"""Standard deviation of a heat map's spot in pixels."""
_NOISE = 0.35
_OCCLUDED = 5
THRESHOLDS = np.arange(0.5, 0.951, 0.05)
_RECALLS = np.linspace(0, 1, 101)
Array = npt.NDArray[np.float64]


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    name = court.preset.name
    length = {"images": _IMAGES[name], "epochs": _EPOCHS[name]}
    seconds = _SECONDS * length["images"] / 512 * length["epochs"] / 12
    cells = [
        Cell(f"batch size {size}", {"batch_size": size, **length}, _MIDDLE)
        for size in (SMALL, LARGE)
    ]
    blank = Evidence(
        "large-helps-keypoints",
        effects=(),
        margin=_MARGIN,
        unit="points of AP",
        axis="epochs",
        policy="tuned",
        finding="",
    )
    try:
        rates = _rates(court, cells, seconds)
        small, large = _measured(court, cells, rates, seconds)
    except UntestableError as error:
        yield dataclasses.replace(blank, untestable=str(error))
        return
    few, many = (length["epochs"] * length["images"] // size for size in (LARGE, SMALL))
    yield dataclasses.replace(
        blank,
        effects=differences(large, small),
        finding=f"on synthetic keypoints: AP {statistics.fmean(large):.1f} at batch size {LARGE} "
        f"and {statistics.fmean(small):.1f} at {SMALL}, after {length['epochs']} epochs of "
        f"{length['images']} images, {few} and {many} updates, at the rates {rates[1].value:g} and "
        f"{rates[0].value:g}",
        doubts=tuple(doubt for rate in rates for doubt in rate.doubts),
    )


def _rates(court: Court, cells: Sequence[Cell], seconds: float) -> list[Rate]:
    """The best rate of each batch size.

    Raises:
        UntestableError: The trainings lack memory, or their process ends.
    """
    try:
        return tuned_rates(court, average_precision_of, cells, seconds=seconds)
    except InputError:  # rehearsed
        return [Rate(cell.middle) for cell in cells]


def _measured(
    court: Court, cells: Sequence[Cell], rates: Sequence[Rate], seconds: float
) -> list[list[float]]:
    """AP of the seeds that judge at each batch size.

    Raises:
        UntestableError: The trainings lack memory, or their process ends.
    """
    seeds = court.seeds("verdict", max(_SEEDS, court.preset.seeds))
    cases = [
        {**cell.case, "rates": [rate.value], "seed": seed}
        for cell, rate in zip(cells, rates, strict=True)
        for seed in seeds
    ]
    found = [ap for (ap,) in court.measure_each(average_precision_of, cases, seconds=seconds)]
    return [found[first : first + len(seeds)] for first in range(0, len(found), len(seeds))]


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Images with one object each.

    Attributes:
        images: float32 [images, side, side, 1].
        keypoints: [images, keypoints, 2] places as (row, column) in pixels.
        areas: [images] area of the object's box in square pixels.
    """

    images: npt.NDArray[np.float32]
    keypoints: Array
    areas: Array


def draw_scenes(count: int, seed: int) -> Scenes:
    """Draws triangles with noise and one occluded square each.

    The tip is farther from the two other corners than these are from each other, and clockwise
    from it comes the right one: the three can be told apart.

    Args:
        count: Number of images.
        seed: Of everything.
    """
    generator = np.random.default_rng(seed)
    angle = generator.uniform(0, 2 * np.pi, count)
    height, half = generator.uniform(7, 10, count), generator.uniform(2, 3, count)
    along = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    across = np.stack([-np.sin(angle), np.cos(angle)], axis=1)
    tip = 0.5 * height[:, None] * along
    corners = np.stack([tip, -tip + half[:, None] * across, -tip - half[:, None] * across], axis=1)
    low, high = corners.min(axis=1), corners.max(axis=1)
    free = _SIDE - 3 - (high - low)  # one and a half pixels beside the object
    places = corners - low[:, None] + 1 + generator.uniform(0, 1, (count, 1, 2)) * free[:, None]
    images = np.max(
        [_line(places[:, a], places[:, b]) for a, b in ((0, 1), (0, 2), (1, 2))], axis=0
    )
    pixels = np.arange(_SIDE)
    corner = generator.integers(0, _SIDE - _OCCLUDED, (count, 2, 1))
    hidden = (pixels >= corner) & (pixels < corner + _OCCLUDED)
    images[hidden[:, 0, :, None] & hidden[:, 1, None, :]] = 0
    images += generator.normal(0, _NOISE, images.shape)
    areas = np.prod(np.ptp(places, axis=1), axis=1)
    return Scenes(images[..., None].astype(np.float32), places, areas)


def _line(start: Array, end: Array) -> Array:
    """[images, side, side] images of a line between two places each."""
    grid = np.stack(np.meshgrid(np.arange(_SIDE), np.arange(_SIDE), indexing="ij"), axis=-1)
    away, way = grid - start[:, None, None], (end - start)[:, None, None]
    share = np.clip((away * way).sum(-1) / (way**2).sum(-1), 0, 1)
    drawn: Array = np.exp(-((away - share[..., None] * way) ** 2).sum(-1))
    return drawn


def heat_maps(keypoints: Array) -> npt.NDArray[np.float32]:
    """[images, pixels, keypoints] a spot around each keypoint, of sum 1.

    Args:
        keypoints: [images, keypoints, 2].
    """
    rows, columns = (
        np.exp(-((np.arange(_SIDE) - keypoints[..., axis, None]) ** 2) / (2 * _SPOT**2))
        for axis in (0, 1)
    )
    spots = np.einsum("nki,nkj->nijk", rows, columns).reshape(len(keypoints), -1, KEYPOINTS)
    found: npt.NDArray[np.float32] = (spots / spots.sum(axis=1, keepdims=True)).astype(np.float32)
    return found


def located(maps: Array) -> tuple[Array, Array]:
    """Where heat maps see their keypoints, and how sure they are.

    The place is the mean of the 3 x 3 pixels around the largest one.

    Args:
        maps: [images, pixels, keypoints] of sum 1.

    Returns:
        [images, keypoints, 2] places and [images] scores.
    """
    count = len(maps)
    peaks = maps.argmax(axis=1)
    padded = np.pad(maps.reshape(count, _SIDE, _SIDE, KEYPOINTS), ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = np.divmod(peaks, _SIDE)
    image, part = np.arange(count)[:, None], np.arange(KEYPOINTS)
    weights = np.stack(
        [
            np.stack([padded[image, rows + i, columns + j, part] for j in range(3)], axis=-1)
            for i in range(3)
        ],
        axis=-2,
    )  # [images, keypoints, 3, 3]
    weights /= weights.sum(axis=(-2, -1), keepdims=True)
    steps = np.arange(-1, 2)
    places = np.stack(
        [
            rows + (weights.sum(axis=-1) * steps).sum(axis=-1),
            columns + (weights.sum(axis=-2) * steps).sum(axis=-1),
        ],
        axis=-1,
    )
    return places, maps.max(axis=1).mean(axis=1)


def similarity(places: npt.ArrayLike, keypoints: npt.ArrayLike, areas: npt.ArrayLike) -> Array:
    """[images] object keypoint similarity, 1 where every place is right.

    Args:
        places: [images, keypoints, 2] where they are said to be.
        keypoints: [images, keypoints, 2] where they are.
        areas: [images] of the objects, in square pixels.
    """
    squares = ((np.asarray(places) - np.asarray(keypoints)) ** 2).sum(axis=-1)
    found: Array = np.exp(-squares / (2 * np.asarray(areas)[:, None] * SCATTER**2)).mean(axis=1)
    return found


def average_precision(similarities: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """COCO's AP in points, of one object and one detection in each image.

    Args:
        similarities: [images] OKS of each detection.
        scores: [images] how sure it is.
    """
    ordered = np.asarray(similarities)[np.argsort(-np.asarray(scores), kind="stable")]
    count = len(ordered)
    found = []
    for threshold in THRESHOLDS:
        right = np.cumsum(ordered >= threshold)
        precision = np.maximum.accumulate((right / np.arange(1, count + 1))[::-1])[::-1]
        # The first rank with at least each recall; none has precision 0.
        ranks = np.searchsorted(right / count, _RECALLS - 1e-12, side="left")
        found.append(np.append(precision, 0.0)[ranks].mean())
    return float(100 * np.mean(found))


def average_precision_of(
    task: TaskContext,
    *,
    batch_size: int,
    images: int,
    epochs: int,
    rates: Sequence[float],
    seed: int,
) -> tuple[float, ...]:
    """Inside the process that trains: AP with each rate, on images that training has not seen."""
    import tensorflow as tf

    from tfbatch.claims._small_training import SmallTraining, batches, seeded

    seen, fresh = draw_scenes(images, 2 * seed), draw_scenes(_TESTED, 2 * seed + 1)
    with seeded(seed):
        model = _network()
    training = SmallTraining(
        model,
        lambda spots, maps: tf.reduce_mean(
            tf.nn.softmax_cross_entropy_with_logits(
                tf.transpose(spots, [0, 2, 1]), tf.transpose(maps, [0, 2, 1])
            ),
            axis=1,
        ),
        tf.constant(seen.images),
        tf.constant(heat_maps(seen.keypoints)),
    )

    def trained(rate: float) -> float:
        training.restart()
        order = batches(images, batch_size, seed)
        for _ in range(epochs * images // batch_size):
            training.step(next(order), rate)
            task.heartbeat_or_stop()
        maps = tf.nn.softmax(training.outputs(fresh.images), axis=1).numpy().astype(np.float64)
        if not np.isfinite(maps).all():
            return 0.0  # it diverged: nothing is found
        places, scores = located(maps)
        return average_precision(similarity(places, fresh.keypoints, fresh.areas), scores)

    return tuple(map(trained, rates))


def _network() -> keras.Model:
    """Two halves of resolution, one of them given back; logits [images, pixels, keypoints]."""
    import keras
    from keras import layers

    def block(x: keras.KerasTensor, width: int) -> keras.KerasTensor:
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))

    inputs = keras.Input((_SIDE, _SIDE, 1))
    fine = block(inputs, 8)
    coarse = block(layers.MaxPooling2D()(fine), 16)
    coarse = block(block(layers.MaxPooling2D()(coarse), 32), 16)
    coarse = layers.UpSampling2D(4, interpolation="bilinear")(coarse)
    hidden = block(layers.Concatenate()([fine, coarse]), 16)
    maps = layers.Conv2D(KEYPOINTS, 1)(hidden)
    return keras.Model(inputs, layers.Reshape((_SIDE * _SIDE, KEYPOINTS))(maps))
