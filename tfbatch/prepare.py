"""Writes a data set as sharded TFRecords with a manifest, or verifies them.

usage: tfbatch prepare --dataset=NAME [--verify]

Nothing is done where the records are there already; what a killed run had finished is kept. `tune`
prepares by itself on first use.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from absl import flags

from tfbatch.command_line.common_flags import define_common_flags, threads_of
from tfbatch.command_line.running import library_noise_to, parse_flags, path_of, run_command
from tfbatch.dataset_info.recipe import Recipe
from tfbatch.errors import InputError
from tfbatch.pipeline.dataset_names import find_dataset
from tfbatch.search.progress import LiveProgress, Progress

FLAGS = flags.FlagValues()
define_common_flags(FLAGS, "dataset", "image_size", "data_dir", "records_dir")
define_common_flags(
    FLAGS,
    "threads",
    more="Used for encoding. Default: one for each core; the files do not depend on it.",
)
flags.DEFINE_boolean(
    "verify", False, "Re-read every record and compare checksums and counts.", flag_values=FLAGS
)


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parse_flags(FLAGS, arguments, usage=__doc__ or "")
    data_dir, records_dir = path_of(FLAGS.data_dir), path_of(FLAGS.records_dir)
    recipe = find_dataset(FLAGS.dataset, data_dir=data_dir, image_size=FLAGS.image_size)
    if not isinstance(recipe, Recipe):
        raise InputError(
            "`prepare` writes the records of a recipe; data of your own needs none. "
            f"Received: {FLAGS.dataset!r}."
        )
    started = time.monotonic()
    with (
        tempfile.NamedTemporaryFile(prefix="tfbatch-", suffix=".log") as log,
        library_noise_to(Path(log.name), kept=False) as (out, _),
    ):
        from tfbatch.pipeline import prepare_records
        from tfbatch.records.manifest import read_notes
        from tfbatch.records.reader import open_records, verify

        progress = LiveProgress(out) if out.is_terminal else Progress(out)
        try:
            folder, written = prepare_records(
                recipe,
                data_dir=data_dir,
                records_dir=records_dir,
                progress=progress.preparing,
                workers=threads_of(FLAGS.threads) or None,
            )
        finally:
            progress.end()
        manifest = verify(folder) if FLAGS.verify else open_records(folder)
        done = "written to" if written else "there already, in"
        progress.say(f"{recipe.name}: records {done} {folder}")
        for split, shards in manifest.splits.items():
            size = sum(shard.num_bytes for shard in shards) / 2**20
            progress.say(
                f"  {split}: {manifest.num_examples(split):,} examples in {len(shards)} "
                f"files, {size:.1f} MiB"
            )
        for note in read_notes(folder):
            progress.say(f"  {note}")
        if FLAGS.verify:
            progress.say("  every record was read: checksums and counts agree")
        progress.say(f"  {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    run_command(main)
