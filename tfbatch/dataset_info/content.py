"""The findings of one look at a user's data, and the sentences that follow from them.

Pure numbers and text, without TensorFlow: `tfbatch.pipeline.content_scan` does the looking.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from tfbatch.schema import Strict

Part = Literal["inputs", "targets", "sample_weight"]

_LEAST_SHARE = 0.01
"""A share of examples below this is not worth a sentence."""
_STANDARD_ERRORS = 4.0
_LARGE_INPUTS = 50.0
"""Mean absolute input from which a hint is given: unscaled 8-bit images have about 120."""
_MOST_NAMES = 8


class NonFinite(Strict):
    """Values of one array of one split that are NaN or infinite.

    Attributes:
        part: What the array is.
        name: What it is called in messages, such as "input `age`".
        split: The split.
        values: How many values.
        examples: In how many examples.
        first_example: Index of the first such example, in the order in which it was given.
        first_index: Index of the first such value within that example; () for a scalar.
        columns: Columns with such values, where an example is a row of numbers.
    """

    part: Part
    name: str
    split: str
    values: int
    examples: int
    first_example: int
    first_index: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()

    def __str__(self) -> str:
        columns = ""
        if self.columns:
            shown = ", ".join(map(str, self.columns[:_MOST_NAMES]))
            more = ", ..." if len(self.columns) > _MOST_NAMES else ""
            columns = f" (column{'s' if len(self.columns) > 1 else ''} {shown}{more})"
        place = ""
        if len(self.first_index) == 1:
            place = f", column {self.first_index[0]}"
        elif self.first_index:
            place = f", at {list(self.first_index)}"
        are = "value is" if self.values == 1 else "values are"
        return (
            f"{self.values:,} {are} NaN or infinite in the {self.name} of your `{self.split}` "
            f"data{columns}, in {self.examples:,} example{'' if self.examples == 1 else 's'}; the "
            f"first is example {self.first_example:,}{place} (counted from 0)."
        )


class TargetContent(Strict):
    """One array of targets of one split.

    Attributes:
        name: What it is called in messages.
        key: Its key or index among several targets; "" for a single one.
        shape: Shape of one example's target; None for a dimension that differs.
        minimum: Smallest finite value, or None where there is none, such as for text.
        maximum: Largest finite value, or None.
        whole: Whether all finite values are whole numbers.
        class_counts: Examples of each class, if a target is one class index, 0 or 1, or a one-hot
            row; else empty.
        shares: Whether the values along the last axis add up to 1 everywhere, as those of one-hot
            rows and soft labels do; or to 0 in some parts of a mask or a sequence.
    """

    name: str
    key: str = ""
    shape: tuple[int | None, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    whole: bool = False
    class_counts: tuple[int, ...] = ()
    shares: bool = True


class InputScale(Strict):
    """The scale of one array of numeric inputs.

    Attributes:
        name: What it is called in messages.
        mean_absolute: Mean of the absolute values, over a sample.
    """

    name: str
    mean_absolute: float


class DataContent(Strict):
    """The findings of one look at all splits.

    Attributes:
        non_finite: Values that are NaN or infinite.
        targets: By split, each array of targets in its order.
        scales: Numeric training inputs that are not indices.
        sample_weights: Whether examples have weights.
        notes: Of examples that repeat, or differ from pass to pass; a sentence each.
    """

    non_finite: tuple[NonFinite, ...] = ()
    targets: dict[str, tuple[TargetContent, ...]] = {}
    scales: tuple[InputScale, ...] = ()
    sample_weights: bool = False
    notes: tuple[str, ...] = ()

    def sentences(self) -> tuple[str, ...]:
        """Notes for the user before the first trial, independent of the model."""
        return (*map(_with_remedy, self.non_finite), *self.notes)

    def class_counts(self) -> dict[str, tuple[int, ...]]:
        """Examples of each class by split, where there is one target and it tells a class."""
        counts = {
            split: found[0].class_counts for split, found in self.targets.items() if len(found) == 1
        }
        return counts if all(counts.values()) else {}

    def weighted_classes(self, num_classes: int | None) -> int | None:
        """How many classes `class_weight` distinguishes; None if the targets are not classes.

        For a row of several numbers Keras takes the largest one's index, so that a one-hot row has
        a class for each of its numbers; rows of several labels and masks without an axis of
        channels would be weighted by a place. Single numbers it rounds.

        Args:
            num_classes: Number of classes, if the targets were read as class indices.
        """
        train = self.targets.get("train", ())
        if num_classes is not None or len(train) != 1:
            return num_classes
        targets = [target for found in self.targets.values() for target in found]
        lows = [0.0 if target.minimum is None else target.minimum for target in targets]
        highs = [0.0 if target.maximum is None else target.maximum for target in targets]
        if min(lows) < 0 or train[0].minimum is None:
            return None
        width = train[0].shape[-1] if train[0].shape else 1
        if width is None or width > 1:
            shares = all(target.shares for target in targets)
            return width if shares and max(highs) <= 1 else None
        return int(max(highs)) + 1 if all(target.whole for target in targets) else None

    def constant_targets(self) -> Iterator[str]:
        """A sentence for each array of targets that are all equal."""
        for target in self.targets.get("train", ()):
            if target.minimum is not None and target.minimum == target.maximum:
                yield (
                    f"All training {_plural(target.name)} are {target.minimum:g}: there is nothing "
                    "to learn from them."
                )


def _plural(name: str) -> str:
    return name if name.startswith("targets") else f"values of {name}"


def _with_remedy(found: NonFinite) -> str:
    remedy = {
        "inputs": "Fill such values or leave the examples out: most layers return NaN for them, "
        "and a ReLU on a CPU hides them.",
        "targets": "The loss of such examples is NaN unless the loss function leaves them out.",
        "sample_weight": "Give a weight of 0 to an example that must not count.",
    }
    return f"{found} {remedy[found.part]}"


def overlap_is_excessive(
    overlap: float, repeats: float, *, num_examples: int, num_training: int
) -> bool:
    """Whether more examples of a split occur in the training data than chance explains.

    If both splits are drawn from one source, an example of either finds an equal one among the
    training examples with the same probability, so the share of training examples that have
    another equal to them is the expected value. Excessive is a difference of at least 1 % and more
    than 4 standard errors of two proportions with the pooled share p:

        sqrt(p (1 - p) (1 / num_examples + 1 / num_training))

    Args:
        overlap: Share of the split's examples that equal a training example, in [0, 1].
        repeats: Share of the training examples that equal another training example, in [0, 1].
        num_examples: Examples of the split.
        num_training: Training examples.
    """
    pooled = (overlap * num_examples + repeats * num_training) / (num_examples + num_training)
    error = math.sqrt(pooled * (1 - pooled) * (1 / num_examples + 1 / num_training))
    return overlap - repeats >= max(_LEAST_SHARE, _STANDARD_ERRORS * error)


def overlap_note(split: str, *, overlap: float, repeats: float, num_examples: int) -> str:
    """Reports that a split's examples occur in the training data, and the remedy."""
    count = round(overlap * num_examples)
    own = f"{repeats:.1%} of the training examples repeat another"
    return (
        f"{overlap:.0%} of your `{split}` examples ({count:,} of {num_examples:,}) have the same "
        "inputs as a training example, while "
        f"{own if repeats else 'no training example repeats'}: the {split} results are not "
        "measured on unseen examples. `shuffle` before `take` and `skip` causes this, because it "
        "draws a new order on each pass: use `shuffle(..., reshuffle_each_iteration=False)`, or "
        "split by index."
    )


def changed_is_told(
    changed: float, *, dropped: int, stored: int, checked: int, overlapping: bool
) -> bool:
    """Whether a second pass over a Dataset has new examples beyond order, cut and chance.

    A Dataset that drops its last short batch of b leaves out other examples in each order: up to
    f = (b - 1) / N of its examples, for N = n + b - 1 and n that were read. Of m that are read
    again the share that is new is hypergeometric, with the standard error

        sqrt(f * (1 - f) * (N - m) / (N - 1) / m)

    of which four are allowed; a second pass that gives more than N examples has no error of this
    kind. Where `shuffle` comes before `take` and `skip`, an example was in
    no split at the first reading with the probability prod(1 - f) over the splits' shares f: at
    most 1/4 for two splits, 8/27 for three.

    Args:
        changed: Share of a second pass's examples that were in no split at the first, in [0, 1].
        dropped: Most examples that the Dataset may have dropped: b - 1, or 0.
        stored: Examples that were read at the first pass, n.
        checked: Examples that were read at the second, m.
        overlapping: Whether splits share examples, see `overlap_is_excessive`.
    """
    total = stored + dropped
    share = dropped / total
    unread = max(0, total - checked)
    error = math.sqrt(share * (1 - share) * unread / max(1, total - 1) / checked)
    explained = max(_LEAST_SHARE, share + _STANDARD_ERRORS * error)
    return changed > (max(explained, 1 / 3) if overlapping else explained)


def frozen_note(split: str, *, changed: float, stored: int) -> str:
    """Reports that a Dataset is random, and that one draw of it is stored."""
    if split != "train":
        return (
            f"{changed:.0%} of the `{split}` examples are different when your Dataset is read "
            "again: something in it is random. One draw is stored, and all trials are scored on "
            f"it. Leave random augmentation out of `{split}`."
        )
    return (
        f"{changed:.0%} of the training examples are different when your Dataset is read again: "
        "something in it is random, such as an augmentation in `map` or a `shuffle` before "
        f"`take`. It was read once: every epoch of every trial sees the same {stored:,} stored "
        "examples. Give a function `make_dataset(split, batch_size, seed)` that returns the "
        "Dataset, which is called for each training, or augment in the model "
        "(keras.layers.RandomFlip and others)."
    )


def random_scores_note(split: str, *, changed: float, name: str) -> str:
    """Reports that a function's validation or test data is random."""
    return (
        f"{changed:.0%} of the `{split}` examples are different when `{name}` produces them "
        f"again: {split} results differ by chance from one evaluation to the next. Leave random "
        f"augmentation, and `shuffle` before `take`, out of `{split}`."
    )


def moved_note(split: str, *, moved: float, other: str) -> str:
    """Reports that examples change their split from one pass or seed to the next."""
    return (
        f"{moved:.0%} of the `{split}` examples of a second pass were in `{other}` in the first: "
        "the splits are drawn again on each pass, so a model is evaluated on examples that it was "
        "trained on. Use `shuffle(..., reshuffle_each_iteration=False)` with a fixed seed before "
        "`take` and `skip`, or split by index."
    )


def equal_inputs_note(stored: int) -> str:
    """Reports that all inputs are equal."""
    return f"All {stored:,} training examples have the same inputs: no model can tell them apart."


def copies_note(repeats: float) -> str:
    """Reports that a split taken from data with duplicates has them on both sides."""
    return (
        f"{repeats:.0%} of your examples have the same inputs as another one, so the validation "
        "split taken from them repeats training examples. Remove the copies (`repeat()` creates "
        "them), or give your own validation split."
    )


def may_drop_note(where: str, *, most: int) -> str:
    """Reports that a short last batch may have been left out, and with it some examples."""
    return (
        f"{where} gives batches of a fixed size: if it drops a short last one "
        f"(drop_remainder=True), up to {most:,} of its examples are missing. Leave drop_remainder "
        "out: batches are cut anew."
    )


def scale_hints(scales: Sequence[InputScale]) -> tuple[str, ...]:
    """A hint for each array of inputs whose values are far from 1."""
    return tuple(
        f"Hint: the mean absolute value of the {scale.name} is {scale.mean_absolute:.3g}, and no "
        "layer of the model rescales it. Unless the model does so in another way, scale inputs to "
        "about 1, for example with keras.layers.Rescaling(1 / 255) or keras.layers.Normalization: "
        "otherwise the learning rates that work are small and depend on the scale."
        for scale in scales
        if scale.mean_absolute > _LARGE_INPUTS
    )
