"""One training from a configuration, outside any search."""

from __future__ import annotations

from pathlib import Path

from tfbatch.callbacks import DivergenceGuard
from tfbatch.pipeline import load_data
from tfbatch.training.evaluation import evaluate
from tfbatch.training.trial import fit
from tfbatch.training.workload import Workload, find_model_builder
from tfbatch.training_config import TrainingConfig


def train_once(
    config: TrainingConfig, *, records_dir: Path | None = None, output: Path | None = None
) -> dict[str, dict[str, float]]:
    """Trains and evaluates on the validation and the test split.

    Args:
        config: The training.
        records_dir: Folder for records, or None.
        output: Where to save the model, or None.

    Returns:
        Metrics by split.

    Raises:
        InputError: Something in the configuration cannot be used.
        DataError: Data absent or damaged.
    """
    data = load_data(config.dataset, data_dir=config.data_dir, records_dir=records_dir)
    workload = Workload(data, find_model_builder(config.model))
    total_examples = config.trial_length.examples(data.num_examples("train"))
    model = workload.compiled(config.configuration, total_examples=total_examples, seed=config.seed)
    guard = DivergenceGuard()
    derived = workload.derive(config.configuration, total_examples)
    fit(
        model,
        workload,
        derived,
        batch_size=config.configuration.batch_size,
        seed=config.seed,
        callbacks=[guard],
        verbose=2,
    )
    if guard.diverged:
        print(f"The training diverged: {guard.reason}.")
    if output:
        model.save(output)
    return {split: evaluate(model, workload, split) for split in ("validation", "test")}
