"""Reads the records of an offline run of Weights & Biases: LevelDB's log format with a header."""

from __future__ import annotations

import json
import struct
from typing import Any

HEADER, BLOCK = 7, 32768
LAST = {1, 4}


def messages(path):
    data, place, parts, found = path.read_bytes(), HEADER, b"", []
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in LAST:
            found.append(parts)
            parts = b""
    return found


def read_offline_run(folder):
    """`run`, `config`, `summary`, `history` (a list), `exit_code` and `files` of an offline run."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("*.wandb")
    read: dict[str, Any] = {"config": {}, "summary": {}, "history": [], "files": set()}
    for message in messages(file):
        record = wandb_internal_pb2.Record.FromString(message)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            read["run"] = record.run
            read["config"] |= items(record.run.config.update)
        elif kind == "summary":
            read["summary"] |= items(record.summary.update)
        elif kind == "history":
            read["history"].append(items(record.history.item))
        elif kind == "exit":
            read["exit_code"] = record.exit.exit_code
        elif kind == "files":
            read["files"] |= {file.path for file in record.files.files}
    return read


def items(updates):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates}
