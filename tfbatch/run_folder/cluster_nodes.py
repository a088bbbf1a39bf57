"""The nodes of a Ray cluster that a run's figures belong to."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from tfbatch.process.gpus import GpuSettings
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.files import CLUSTER
from tfbatch.schema import JsonObject


@dataclasses.dataclass(frozen=True)
class ClusterNode:
    """A node that has run trials.

    Attributes:
        address: Its address.
        kind: Its kind of device: seconds are compared on nodes of one kind alone.
        workers: Its worker processes.
        gpu_settings: What its trainings run with; None without a GPU.
    """

    address: str
    kind: str
    workers: int
    gpu_settings: GpuSettings | None = None

    def as_json(self) -> JsonObject:
        """With the names that fingerprint.json has for one machine."""
        content: JsonObject = {
            "address": self.address,
            "kind": self.kind,
            "workers": self.workers,
        }
        if self.gpu_settings is not None:
            content["gpus"] = self.gpu_settings.gpus()
            content["gpu_software"] = self.gpu_settings.software()
        return content


def write_nodes(folder: Path, verified_on: str, nodes: Sequence[ClusterNode]) -> None:
    """Writes cluster.json; nodes of earlier sessions, whose trials the run has, stay in it.

    Args:
        folder: The run folder.
        verified_on: The kind of device on which seconds are compared and answers verified.
        nodes: Those that have run trials in this session.

    Raises:
        RunFolderError: It cannot be written.
    """
    now = {(one.address, one.kind) for one in nodes}
    before = [one for one in read_nodes(folder) if (one.get("address"), one.get("kind")) not in now]
    content = {"verified_on": verified_on, "nodes": before + [one.as_json() for one in nodes]}
    write_whole(folder / CLUSTER, json.dumps(content, indent=1))


def read_verified_on(folder: Path) -> str:
    """The kind that the run's last session has verified on; empty without one."""
    return str(_read(folder).get("verified_on", ""))


def read_nodes(folder: Path) -> list[JsonObject]:
    """The nodes as they were written; empty of a run on one machine."""
    nodes = _read(folder).get("nodes")
    return [one for one in nodes if isinstance(one, dict)] if isinstance(nodes, list) else []


def _read(folder: Path) -> JsonObject:
    try:
        content = json.loads((folder / CLUSTER).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, or of a run that was killed
        return {}
    return content if isinstance(content, dict) else {}
