"""The traced programs of one process: which trial may use which, and how many are kept."""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tfbatch.configuration import Configuration
from tfbatch.loss_scaling import unwrapped
from tfbatch.optimizers import parameters_of
from tfbatch.training.compilation import scaling_settings, uses_xla
from tfbatch.training.in_graph import can_vary
from tfbatch.training.program import Program
from tfbatch.training.structure import is_of_the_user, structure_key
from tfbatch.training.workload import Workload
from tfbatch.trial.derived import Derived
from tfbatch.trial.outcome import TrialSpec

if TYPE_CHECKING:
    import keras

MOST_PROGRAMS = 4
"""Traced programs kept; the one used least recently is dropped."""


class ProgramCache:
    """Programs by what they were traced for.

    Args:
        workload: Data and model.
        reuse: When false, every trial is traced anew.
    """

    def __init__(self, workload: Workload, *, reuse: bool = True):
        self.workload = workload
        self._reuse = reuse
        self._programs: collections.OrderedDict[str, Program] = collections.OrderedDict()
        self.traced = 0
        self._light: bool | None = None

    def begin(
        self,
        configuration: Configuration,
        *,
        total_examples: int,
        seed: int,
        steps_per_execution: int | None = None,
        first_step: int = 0,
    ) -> keras.Model:
        """Builds a trial's model under its seed and gives it a traced program where there is one.

        Args:
            configuration: What to train with.
            total_examples: Length of the training.
            seed: Seed of the build.
            steps_per_execution: Default: what follows from the configuration.
            first_step: Updates of the training that were made before it was interrupted.

        Returns:
            A compiled model, as a fresh build would be, ready for `fit`.

        Raises:
            InputError: The builder's result cannot be used, or a plug-in's name or parameter.
        """
        return self._begin(
            configuration,
            self.workload.derive(configuration, total_examples),
            seed,
            steps_per_execution=steps_per_execution,
            first_step=first_step,
        )

    def begin_trial(self, spec: TrialSpec, *, first_step: int = 0) -> keras.Model:
        """The same for a trial.

        Args:
            spec: The trial.
            first_step: Updates that it made itself before it was interrupted.
        """
        return self._begin(
            spec.configuration,
            spec.derived,
            spec.seed,
            first_step=spec.first_step + first_step,
            last_step=spec.first_step + spec.steps,
        )

    def _begin(
        self,
        configuration: Configuration,
        derived: Derived,
        seed: int,
        *,
        first_step: int = 0,
        last_step: int | None = None,
        steps_per_execution: int | None = None,
    ) -> Any:
        fresh = self._build(seed, configuration.model)
        optimizer = self.workload.optimizer(configuration, derived, fresh)
        key = self._key(fresh, optimizer, configuration)
        program = self._programs.pop(key, None) if key else None
        if program is None:
            with self.workload.scope():
                program = Program(
                    fresh,
                    self.workload.optimizer(configuration, derived, fresh),
                    numbers=_numbers(configuration),
                    compile_model=self.workload.compile,
                    held=self.workload.held,
                )
            self.traced += 1
        if key:
            self._programs[key] = program
            while len(self._programs) > MOST_PROGRAMS:
                self._programs.popitem(last=False)
        return program.begin(
            fresh,
            optimizer,
            steps=derived.steps,
            first_step=first_step,
            last_step=last_step,
            steps_per_execution=steps_per_execution or derived.steps_per_execution,
        )

    def _build(self, seed: int, arguments: Mapping[str, Any]) -> Any:
        """A trial's build, TensorFlow's global generator left alone where nothing depends on it.

        Whether something does is tried once: the same seed twice, with that generator in another
        state, gives other weights. What is traced anew in each trial may use it while it trains.
        """
        if self._light:
            return self.workload.build(seed, arguments=arguments, seed_tensorflow=False)
        fresh = self.workload.build(seed, arguments=arguments)
        if self._light is None:
            again = self.workload.build(seed, arguments=arguments, seed_tensorflow=False)
            self._light = (
                self._reuse
                and structure_key(fresh, self.workload.build_model) is not None
                and len(fresh.variables) == len(again.variables)
                and all(
                    np.array_equal(a.numpy(), b.numpy())
                    for a, b in zip(fresh.variables, again.variables, strict=True)
                )
            )
            fresh = self.workload.build(seed, arguments=arguments)
        return fresh

    def clear(self) -> None:
        """Drops every program, and with them the memory that their variables take."""
        self._programs.clear()

    def _key(self, fresh: Any, optimizer: Any, configuration: Configuration) -> str | None:
        structure = structure_key(fresh, self.workload.build_model) if self._reuse else None
        if structure is None or is_of_the_user(unwrapped(optimizer)):
            return None
        config = {k: v for k, v in optimizer.get_config().items() if k != "learning_rate"}
        for name in _numbers(configuration):
            config[name] = "number" if can_vary(config[name]) else repr(config[name])
        compiled = [
            self.workload.precision,
            uses_xla(fresh, self.workload.jit_compile),
            # A variable of the program begins at one of them.
            scaling_settings(getattr(fresh, "optimizer", None)),
        ]
        return json.dumps([structure, type(optimizer).__name__, config, compiled], default=repr)


def _numbers(configuration: Configuration) -> tuple[str, ...]:
    return tuple(parameters_of(configuration.optimizer.name))
