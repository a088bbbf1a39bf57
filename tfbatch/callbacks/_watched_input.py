"""Times what `fit` waits for its input, and shows a batch before training sees it.

Keras calls `model.train_function(iterator)`, and the traced program takes its batches from the
iterator: between the two there is no hook. So the program gets another iterator of the same
element spec, whose elements are the first one's with two time stamps around each request. It is
the same traced program on the same batches in the same order, also with `steps_per_execution` > 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfbatch.errors import InputError
from tfbatch.pipeline.device_data import Chosen, gives_chosen

Look = Callable[[object], None]


def check_single_device(model: keras.Model, *, caller: str) -> None:
    """Refuses a model under a strategy, whose batches are distributed before they arrive.

    Raises:
        InputError: The model was made under a `tf.distribute` strategy.
    """
    with model.distribute_strategy.scope():
        distributed = tf.distribute.has_strategy()
    if distributed:
        raise InputError(
            f"{caller} reads the batches of a `fit` on one device, and the model was made under "
            f"{type(model.distribute_strategy).__name__}: make the model outside the strategy's "
            "scope, or leave the callback out."
        )


def make_train_function_anew(model: keras.Model) -> None:
    """Lets the next execution trace anew; what watches the model's input goes on watching.

    Args:
        model: A compiled model, in `on_train_begin`.
    """
    outer = last = model.train_function
    model.make_train_function(force=True)
    if not isinstance(outer, WatchedInput):
        return
    while isinstance(last.inner, WatchedInput):
        last = last.inner
    last.inner, model.train_function = model.train_function, outer


class WatchedInput:
    """Stands in front of a model's `train_function` during one `fit`.

    Args:
        model: A compiled model, in `on_train_begin`.
        caller: Name of the callback, for messages.
        wants_batch: Asked before each execution whether `look` is to see its first batch.
        look: Gets that batch before training does.
        counts: Whether `totals` are wanted. If not, the program gets its own iterator whenever no
            batch was looked at: a time stamp around every request would cost time.

    Attributes:
        executions: Calls of the program so far.
        waited_for_look: Seconds waited for the batch that `look` got last.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        caller: str,
        wants_batch: Callable[[], bool] | None = None,
        look: Look | None = None,
        counts: bool = True,
    ):
        check_single_device(model, caller=caller)
        self._model, self._caller = model, caller
        self._wants_batch, self._look, self._counts = wants_batch, look, counts
        self.executions = 0
        self.waited_for_look = 0.0
        self._source: Any = None
        self._made: tuple[Any, Any] = (None, None)
        with tf.device("CPU"):
            self._waited = tf.Variable(0.0, dtype=tf.float64, trainable=False)
            self._examples = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.inner = model.train_function
        model.train_function = self

    def __call__(self, iterator: Any) -> Any:
        """One execution."""
        if iterator is not self._source:
            self._source, self._watched = iterator, None
        self.executions += 1
        try:
            looks = self._wants_batch is not None and self._wants_batch()
            if not looks and not self._counts:
                return self.inner(iterator)
            if self._watched is None:
                self._watched = self._watch(iterator)
            if looks:
                self._check_batches(iterator)
                self._show_next(iterator)
            return self.inner(self._watched)
        except (StopIteration, tf.errors.OutOfRangeError):
            raise
        except BaseException:  # Keras then calls no on_train_end
            self.remove()
            raise

    def totals(self) -> tuple[float, int]:
        """Seconds waited for batches, and examples in them, since the beginning of `fit`."""
        return float(self._waited.numpy()), int(self._examples.numpy())

    def remove(self) -> None:
        """Takes itself out of the chain; others may stand before or behind it."""
        if self._model.train_function is self:
            self._model.train_function = self.inner
        else:
            outer = self._model.train_function
            while isinstance(outer, WatchedInput) and outer.inner is not self:
                outer = outer.inner
            if isinstance(outer, WatchedInput):
                outer.inner = self.inner
        self._source = self._watched = None

    def _check_batches(self, iterator: Any) -> None:
        """Refuses what is no batch: of data in a device's memory the step makes it itself.

        Raises:
            InputError: The iterator gives numbers of examples.
        """
        if gives_chosen(iterator):
            raise InputError(
                f"{self._caller} reads batches before training does, and those of data in the "
                "device's memory are made within the step: keep it on the host (--data_on=host), "
                "or leave the callback out."
            )

    def _show_next(self, iterator: Any) -> None:
        """Takes the next batch out, shows it and puts it back at the front."""
        started = tf.timestamp()
        following = iterator.get_next_as_optional()
        waited = tf.timestamp() - started
        self._waited.assign_add(waited)
        self.waited_for_look = float(waited)
        if not following.has_value():
            return  # the program finds the end itself
        batch = following.get_value()
        self._returned.enqueue(tf.nest.flatten(batch, expand_composites=True))
        assert self._look is not None
        self._look(keras.tree.map_structure(_none_for_absent, batch))

    def _watch(self, iterator: Any) -> Any:
        """Traces once in a `fit`, not in every epoch."""
        if self._made[0] != iterator.element_spec:
            specs = tf.nest.flatten(iterator.element_spec, expand_composites=True)
            with tf.device("CPU"):
                self._returned = tf.queue.FIFOQueue(1, [spec.dtype for spec in specs])
            # A concrete function: TensorFlow warns of functions that many fits trace anew.
            made = tf.function(self._watched_batches).get_concrete_function(iterator)
            self._made = iterator.element_spec, made
        return iter(self._made[1](iterator))

    def _watched_batches(self, iterator: Any) -> Any:
        """The rest of the iterator's batches, between two time stamps each."""

        def request(_: Any) -> Any:
            started = tf.timestamp()
            with tf.control_dependencies([started]):
                batch = tf.cond(
                    self._returned.size() > 0,
                    lambda: _put_back(self._returned, iterator.element_spec),
                    iterator.get_next_as_optional,
                )
            with tf.control_dependencies([batch.has_value()]):
                ended = tf.timestamp()
            self._waited.assign_add(ended - started)
            return batch

        def count(batch: Any) -> Any:
            value = batch.get_value()
            self._examples.assign_add(_examples_in(value))
            return value

        # No optimization may run ahead of the requests.
        options = tf.data.Options()
        options.autotune.enabled = False
        options.experimental_optimization.apply_default_optimizations = False
        requests = tf.data.Dataset.counter().map(request)
        batches = requests.take_while(lambda batch: batch.has_value()).map(count)
        return batches.with_options(options)


def _examples_in(batch: Any) -> tf.Tensor:
    """How many, int64; the parts that a sparse or ragged tensor is made of have other lengths."""
    if isinstance(batch, Chosen):  # numbers of examples, a row for each stream
        return tf.shape(tf.nest.flatten(batch, expand_composites=True)[0], out_type=tf.int64)[1]
    first = tf.nest.flatten(batch)[0]
    if isinstance(first, tf.SparseTensor):
        return tf.cast(first.dense_shape[0], tf.int64)
    if isinstance(first, tf.RaggedTensor):
        return first.nrows(out_type=tf.int64)
    return tf.shape(first, out_type=tf.int64)[0]


def _put_back(returned: Any, element_spec: Any) -> Any:
    parts = returned.dequeue()
    parts = parts if isinstance(parts, list | tuple) else [parts]
    specs = tf.nest.flatten(element_spec, expand_composites=True)
    shaped = [tf.ensure_shape(p, s.shape) for p, s in zip(parts, specs, strict=True)]
    batch = tf.nest.pack_sequence_as(element_spec, shaped, expand_composites=True)
    return tf.experimental.Optional.from_value(batch)


def _none_for_absent(leaf: Any) -> Any:
    """Keras stands an empty Optional for a part that is None."""
    return None if isinstance(leaf, tf.experimental.Optional) else leaf
