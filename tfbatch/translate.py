"""Predicts what changes in a training with its batch size, its GPUs or its accumulation.

usage: tfbatch translate --batch_size=256 --to=1024 --optimizer=adamw [--flag=value] ...

Learning rate, warm-up, steps, the optimizer's numbers and the momentum of batch normalization are
given before and after, each with its rule, formula and source: predictions. With --from=RUN the
learning rate follows the slope that the run has measured.
"""

from __future__ import annotations

from absl import flags

from tfbatch.command_line.machine_output import define_output_flags, json_text
from tfbatch.command_line.running import parse_arguments, parse_flags, path_of, run_command
from tfbatch.errors import InputError

FLAGS = flags.FlagValues()
_WHOLE = {
    "batch_size": (None, "Examples in one update now. Default: what the run recommends."),
    "to": (None, "Examples in one update then. Default: each GPU keeps its micro-batch."),
    "gpus": (1, "GPUs that share a batch now."),
    "to_gpus": (None, "GPUs then. Default: as many."),
    "accumulation": (1, "Micro-batches that are added up for one update now."),
    "to_accumulation": (None, "Micro-batches then. Default: as many."),
    "steps": (None, "Updates of the training now."),
    "warmup_steps": (None, "Updates of its warm-up now."),
}
for _name, (_default, _text) in _WHOLE.items():
    flags.DEFINE_integer(_name, _default, _text, 1, flag_values=FLAGS)
flags.DEFINE_string(
    "optimizer",
    None,
    "A file of tfbatch/optimizers: sgd, adamw, .... Default: the run's, else sgd.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "learning_rate",
    None,
    "Peak learning rate now. Default: the run's, else Keras's.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "optimizer_arguments",
    "",
    'Numbers of the optimizer that are not Keras\'s own, e.g. "beta_2=0.95,weight_decay=0.1".',
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "critical_batch_size",
    None,
    "The gradient noise scale in examples, as `probe` measures it: the learning rate bends there.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "batch_normalization_momentum", 0.99, "That of the model now.", flag_values=FLAGS
)
flags.DEFINE_string("from", None, "A run folder that `tune` has written.", flag_values=FLAGS)
define_output_flags(FLAGS)


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parse_flags(FLAGS, arguments, usage=__doc__ or "")
    numbers = parse_arguments(FLAGS.optimizer_arguments, flag="--optimizer_arguments")
    for name, value in numbers.items():
        if isinstance(value, str):
            raise InputError(
                f"`--optimizer_arguments`: {name} must be a number. Received: {value!r}."
            )
    from tfbatch.translation import translate_batch_size

    found = translate_batch_size(
        optimizer=FLAGS.optimizer,
        learning_rate=FLAGS.learning_rate,
        optimizer_arguments={k: v for k, v in numbers.items() if not isinstance(v, str)},
        critical_batch_size=FLAGS.critical_batch_size,
        batch_normalization_momentum=FLAGS.batch_normalization_momentum,
        run_dir=path_of(FLAGS["from"].value),
        **{name: FLAGS[name].value for name in _WHOLE},
    )
    print(json_text("translate", found) if FLAGS.json else f"{found}\n", end="")
    return 0


if __name__ == "__main__":
    run_command(main)
