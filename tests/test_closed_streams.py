"""A reader that goes away, a full disk, a terminal that hangs up: no command ends of it."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from tfbatch.process.steady_stream import SteadyStream

COMMANDS = ["export", "prepare", "probe", "train", "tune"]


def piped(command, reader, folder):
    """The command's exit code, what the reader printed, and the standard error."""
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m {command} | {reader}; echo ${{PIPESTATUS[0]}}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    *lines, code = done.stdout.splitlines()
    return int(code), "\n".join(lines), done.stderr


@pytest.mark.quick_cases("train-head", "tune-true")
@pytest.mark.parametrize(
    ("name", "reader"), [*((name, "head -n 1") for name in COMMANDS), ("tune", "true")]
)
def test_help_that_nobody_reads_to_its_end_ends_quietly(name, reader, tmp_path):
    code, out, err = piped(f"tfbatch.{name} --help", reader, tmp_path)

    assert (code, err) == (0, "")
    assert len(out.splitlines()) == (1 if reader != "true" else 0)


@pytest.mark.quick_cases(">&- 2>&-", "> /dev/full 2>&1")
@pytest.mark.parametrize("how", [">&-", "> /dev/full", "> /dev/full 2>&1", ">&- 2>&-"])
def test_help_into_a_closed_or_full_stream_ends_quietly(how, tmp_path):
    done = subprocess.run(
        f"{sys.executable} -m tfbatch.export --help {how}",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_that_nobody_reads_keeps_its_exit_code(tmp_path):
    code, _, _ = piped("tfbatch.tune --dataset=digts 2>&1", "true", tmp_path)

    assert code == 2


def pipe_without_reader():
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def test_a_stream_goes_on_elsewhere_with_what_was_not_delivered():
    instead, lost = io.StringIO(), []
    stream = SteadyStream(pipe_without_reader(), instead=instead, lost=lambda: lost.append(1))
    stream.write("one\n")
    stream.flush()
    stream.write("two\n")
    stream.flush()

    assert instead.getvalue() == "one\ntwo\n"
    assert lost == [1]
    assert not stream.isatty()


def test_what_was_delivered_is_not_repeated_elsewhere():
    reader, writer = os.pipe()
    instead = io.StringIO()
    stream = SteadyStream(os.fdopen(writer, "w"), instead=instead)
    stream.write("one\n")
    stream.flush()
    assert os.read(reader, 100) == b"one\n"
    os.close(reader)
    stream.write("two\n")
    stream.flush()

    assert instead.getvalue() == "two\n"


def test_what_the_encoding_lacks_is_written_as_an_escape():
    raw, lost = io.BytesIO(), []
    stream = SteadyStream(io.TextIOWrapper(raw, encoding="ascii"), lost=lambda: lost.append(1))
    stream.write("0.5 ± 0.1\n")
    stream.write("more\n")
    stream.flush()

    assert raw.getvalue() == b"0.5 \\xb1 0.1\nmore\n"
    assert lost == []


NOISY = """
import sys
from pathlib import Path
from tfbatch.command_line.running import library_noise_to, run_command, say

def main(arguments):
    with library_noise_to(Path("libraries.log")) as (out, err):
        for number in range(2000):
            say(out, f"line {number}")
            print(f"noise {number}")
        Path("done").touch()
        return 3

run_command(main)
"""


@pytest.mark.parametrize("both", [False, True])
def test_a_command_goes_on_into_its_log_when_its_reader_goes_away(tmp_path, both):
    (tmp_path / "noisy.py").write_text(NOISY)
    code, out, err = piped(f"noisy {'2>&1' if both else ''}", "head -n 2", tmp_path)

    assert code == 3
    assert out == "line 0\nline 1"
    log = (tmp_path / "libraries.log").read_text().splitlines()
    assert log[-2:] == ["line 1999", "noise 1999"] or log[-1] == "noise 1999"
    assert "line 1999" in log
    if not both:
        assert err == (
            "The standard output is closed: the command continues and writes to libraries.log.\n"
        )
    assert (tmp_path / "done").exists()
