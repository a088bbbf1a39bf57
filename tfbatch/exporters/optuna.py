"""Optuna: a storage that optuna-dashboard opens, with one study for the search.

The study has the baseline and the search's trials; a second one, whose name ends in
`-verification`, has the trainings on fresh seeds, which are no proposals. A parameter is everything
that a configuration has, and the learning rate at the batch size; the rest are user attributes.
Intermediate values are the objective at the end of each epoch, by examples.
"""

from __future__ import annotations

import contextlib
import datetime
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.exporters._exported import Exported, command_of, missing_driver, needs, path_of
from tfbatch.exporters._trial import (
    TrialRecord,
    answer_metrics,
    answer_parameters,
    flat_settings,
    read_curves,
    trial_of,
)
from tfbatch.run_folder.journal import Row
from tfbatch.run_folder.reader import RecordedRun

if TYPE_CHECKING:
    import optuna

DEFAULT = "sqlite:///optuna.db"
_LOGARITHMIC = ("batch_size", "learning_rate", "base_learning_rate", "base_batch_size")
_TRIAL = "trial"


def export(run: RecordedRun, *, destination: str | None) -> Exported:
    """Writes the trials that are not there yet.

    A study is written anew where a new trial has a choice that no earlier one had: Optuna's
    categories never change.

    Args:
        run: The run.
        destination: A file, or the URL of a storage. Default: sqlite:///optuna.db in the working
            directory.

    Raises:
        InputError: optuna is not installed, or the destination cannot be used.
    """
    with needs("optuna"):
        import optuna
        from sqlalchemy.exc import SQLAlchemyError

    url = _url(destination)
    with _quiet():
        try:
            with needs("optuna"), missing_driver("Optuna", url):
                storage = optuna.storages.RDBStorage(url)
                written = sum(_write(storage, run, rows, name) for name, rows in _studies(run))
        except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
            raise InputError(f"Optuna cannot write to {url}: {error}") from error
    shown = command_of("optuna-dashboard", url, package="optuna-dashboard")
    return Exported(url, written, len(run.rows) - written, shown)


def _url(destination: str | None) -> str:
    if not destination:
        return DEFAULT
    if "://" in destination:
        return destination
    path = path_of(destination)
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(
            "`destination` must be a file in a folder that exists, or the URL of a storage. "
            f"Received: {destination}."
        )
    return f"sqlite:///{path}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna tells of every study that it makes."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _studies(run: RecordedRun) -> list[tuple[str, list[Row]]]:
    verified = [row for row in run.rows if row["phase"] == "confirmation"]
    searched = [row for row in run.rows if row["phase"] != "confirmation"]
    name = f"{run.path.name}-{run.key}"
    studies = [(name, searched), (f"{name}-verification", verified)]
    return [(name, rows) for name, rows in studies if rows]


def _write(
    storage: optuna.storages.BaseStorage, run: RecordedRun, rows: list[Row], name: str
) -> int:
    """Number of trials that were written now."""
    import optuna

    objective, _, direction = str(run.settings.get("objective", "val_loss:min")).partition(":")
    records = {row["trial"]: trial_of(row) for row in rows}
    distributions = _distributions(list(records.values()))
    study = optuna.create_study(
        storage=storage,
        study_name=_found(storage, run, name),
        direction="maximize" if direction == "max" else "minimize",
        load_if_exists=True,
    )
    there = study.get_trials(deepcopy=False)
    if not _compatible(there, distributions):
        optuna.delete_study(study_name=study.study_name, storage=storage)
        study = optuna.create_study(
            storage=storage, study_name=name, direction=study.direction, load_if_exists=False
        )
        there = []
    present = {trial.user_attrs.get(_TRIAL) for trial in there}
    new = [row for row in rows if row["trial"] not in present]
    study.add_trials(
        _frozen(records[row["trial"]], row, run, objective, distributions) for row in new
    )
    for key, value in _about(run).items():
        study.set_user_attr(key, value)
    return len(new)


def _found(storage: optuna.storages.BaseStorage, run: RecordedRun, name: str) -> str:
    """The name of the study that a moved or renamed folder was written to before, or its own."""
    end = name.removeprefix(run.path.name)
    names = (study.study_name for study in storage.get_all_studies())
    return next((known for known in names if known.endswith(end)), name)


def _about(run: RecordedRun) -> dict[str, Any]:
    answer = run.recommendation
    found: dict[str, Any] = flat_settings(run.settings) | {"run_dir": str(run.path)}
    if answer:
        found |= {f"recommended.{k}": v for k, v in answer_parameters(answer).items()}
        found |= {k: v if math.isfinite(v) else str(v) for k, v in answer_metrics(answer).items()}
        found["status"] = answer["status"]
    return found


def _parameters(record: TrialRecord) -> dict[str, Any]:
    """What was chosen, and the learning rate that follows at the batch size."""
    fields = (*Configuration.model_fields, "learning_rate")
    return {
        key: value
        for key, value in record.parameters.items()
        if key in fields or any(key.startswith(f"{field}_") for field in fields)
    }


def _distributions(
    records: Sequence[TrialRecord],
) -> dict[str, optuna.distributions.BaseDistribution]:
    """As wide as what the trials have: the space itself is among the settings."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    values: dict[str, list[Any]] = {}
    for record in records:
        for key, value in _parameters(record).items():
            values.setdefault(key, []).append(value)
    found: dict[str, optuna.distributions.BaseDistribution] = {}
    for key, ones in values.items():
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in ones)
        if not numbers:
            choices = sorted(set(ones), key=str)
            found[key] = CategoricalDistribution(choices)
        elif key in ("batch_size", "base_batch_size"):
            found[key] = IntDistribution(min(ones), max(ones), log=True)
        else:
            log = key in _LOGARITHMIC and min(ones) > 0
            found[key] = FloatDistribution(float(min(ones)), float(max(ones)), log=log)
    return found


def _compatible(
    there: Sequence[optuna.trial.FrozenTrial],
    distributions: dict[str, optuna.distributions.BaseDistribution],
) -> bool:
    from optuna.distributions import check_distribution_compatibility

    try:
        for trial in there:
            for key, before in trial.distributions.items():
                if key in distributions:
                    check_distribution_compatibility(before, distributions[key])
    except ValueError:
        return False
    return True


def _frozen(
    record: TrialRecord,
    row: Row,
    run: RecordedRun,
    objective: str,
    distributions: dict[str, optuna.distributions.BaseDistribution],
) -> optuna.trial.FrozenTrial:
    import optuna

    parameters = {
        key: float(value)
        if isinstance(distributions[key], optuna.distributions.FloatDistribution)
        else value
        for key, value in _parameters(record).items()
    }
    state = _state(row, _full_length(run))
    trial = optuna.trial.create_trial(
        state=state,
        value=row["score"] if state.name != "FAIL" else None,
        params=parameters,
        distributions={key: distributions[key] for key in parameters},
        user_attrs=_attributes(record, parameters),
        intermediate_values=_intermediate(run, row, objective),
    )
    trial.datetime_start = _local(record.started_at)
    trial.datetime_complete = _local(record.finished_at)
    return trial


def _full_length(run: RecordedRun) -> int:
    """Examples of a whole training, as the settings have it: also before the baseline has ended."""
    baseline = (row["total_examples"] for row in run.rows if row["phase"] == "baseline")
    named = run.settings.get("trial_examples") or next(baseline, None)
    return int(named or max(row["total_examples"] for row in run.rows))


def _state(row: Row, full_length: int) -> optuna.trial.TrialState:
    """Only whole trainings of the run's length have values that compare with one another.

    A part, a branch and a shorter schedule are pruned: Optuna's best trial is none of them.
    """
    from optuna.trial import TrialState

    if row["status"] != "completed" or row["score"] is None:
        return TrialState.FAIL
    total = row["total_examples"]
    to_its_end = row.get("to_examples") is None or row["examples"] >= total
    whole = to_its_end and not row.get("course_from") and total == full_length
    return TrialState.COMPLETE if whole else TrialState.PRUNED


def _attributes(record: TrialRecord, parameters: dict[str, Any]) -> dict[str, Any]:
    """Everything else; a number that is not finite as text, which JSON can hold."""
    others = {k: v for k, v in record.parameters.items() if k not in parameters}
    numbers = {k: v if math.isfinite(v) else str(v) for k, v in record.metrics.items()}
    return {**record.tags, **numbers, **others, _TRIAL: record.name}


def _intermediate(run: RecordedRun, row: Row, objective: str) -> dict[int, float]:
    return {
        int(point.values["examples"]): point.values[objective]
        for point in read_curves(run.tensorboard, row)
        if objective in point.values
    }


def _local(seconds: float) -> datetime.datetime:
    """Optuna's times have no zone: those of this machine."""
    return datetime.datetime.fromtimestamp(seconds)
