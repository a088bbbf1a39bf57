"""The answer of a run folder: as it was written, or found from the trials in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tfbatch.answer.answer import Answer, Contender, Measured
from tfbatch.answer.candidates import groups_of_rounds, round_of
from tfbatch.answer.chance import read_chance_level
from tfbatch.answer.edges import Edges
from tfbatch.answer.find import decide, find_answer
from tfbatch.answer.memory_limits import MemoryLimit, MemoryUsedUp, read_memory_limit
from tfbatch.answer.step_seconds import read_step_seconds
from tfbatch.errors import ConfigurationError, RunFolderError, SearchError
from tfbatch.request.search_config import Space, VerificationConfig
from tfbatch.run_folder.files import RECOMMENDATION, SETTINGS
from tfbatch.run_folder.reader import read_budget, read_settings
from tfbatch.schema import validate
from tfbatch.trial.trials import Trials


def read_answer(run_dir: Path) -> Answer | None:
    """The answer in a run folder's recommendation.json; None if there is none yet.

    A file that names no contenders, as earlier versions wrote it, is completed from the journal.

    Raises:
        InputError: It is no run folder.
        RunFolderError: A file in it is damaged.
    """
    path = run_dir / RECOMMENDATION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "contenders" in content:
            return validate(Answer, content, where="the answer")
        return _completed(content, run_dir)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, ConfigurationError, SearchError) as error:
        raise RunFolderError(
            f"{path} cannot be read: {error}. Remove it: the same command writes it again."
        ) from error


def answer_of(run_dir: Path) -> Answer:
    """The answer that the trials in a run folder give now, also while the run goes on.

    Raises:
        InputError: It is no run folder.
        RunFolderError: A file in it is damaged.
        SearchError: No trial has completed.
        NothingLearnedError: No trial is better than chance.
    """
    settings, budget = read_settings(run_dir), read_budget(run_dir)
    space = validate(Space, settings["search"]["space"], where=SETTINGS)
    verification = validate(VerificationConfig, budget["confirmation"], where=SETTINGS)
    found = find_answer(
        Trials.read(run_dir),
        batch_sizes=verification.batch_sizes,
        step_seconds=read_step_seconds(run_dir),
        chance=read_chance_level(run_dir),
        learning_rates=space.learning_rate_range(),
        goal=verification.goal,
        tolerance=verification.tolerance,
        planned=verification.seeds,
    )
    return found.model_copy(update={"memory_limit": read_memory_limit(run_dir)})


def _completed(content: dict[str, Any], run_dir: Path) -> Answer:
    """What an earlier version wrote, with the contenders that the journal had then."""
    trials = Trials.read(run_dir)[: content["trials"]]
    evidence = [trials.find(name) for name in content["evidence"]]
    rounds = max((round_of(one) for one in evidence if one), default=0)
    groups = groups_of_rounds(trials, least=rounds, most=rounds) if rounds else {}
    chance = read_chance_level(run_dir)
    found = decide(
        trials,
        groups,
        read_step_seconds(run_dir),
        chance=chance.without_knowledge() if chance else None,
    )
    # Step times that came later would recommend another one: what stands in the file counts.
    written = next((one for one in found.contenders if _is_of(content, one)), None)
    if written is None:
        raise ValueError("the journal has no trials of the configuration that it recommends")
    found = found.model_copy(update={"recommended_trial": written.key})
    found = found.with_test(written.key, _tested(content))
    if found.baseline and not found.keeps_baseline and content["baseline"]:
        found = found.with_test(found.baseline.key, _tested(content["baseline"]))
    edges = content.get("best_learning_rate_at_edge", {})
    limit, used_up = content.get("memory_limit"), content.get("memory_used_up")
    return found.model_copy(
        update={
            "status": content["status"],
            "seconds": content["seconds"],
            "memory_limit": limit and MemoryLimit.model_validate(limit),
            "memory_used_up": used_up and MemoryUsedUp.model_validate(used_up),
            "best_learning_rate_at_edge": Edges.model_validate(edges),
        }
    )


def _is_of(content: dict[str, Any], one: Contender) -> bool:
    """Whether an earlier version's file recommends this contender."""
    figures = (one.batch_size, one.learning_rate)
    return figures == (content["batch_size"], content["learning_rate"]) and {
        trial.trial for trial in one.trials
    } <= set(content["evidence"])


def _tested(part: dict[str, Any]) -> dict[str, Measured] | None:
    test = part["metrics"]["test"]
    return test and {name: Measured.model_validate(one) for name, one in test.items()}
