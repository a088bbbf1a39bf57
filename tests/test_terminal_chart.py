"""The chart of an answer in characters: every mean at its place, in 80 columns."""

from __future__ import annotations

from test_answer import RUNS

from tfbatch.answer.stored import answer_of
from tfbatch.answer.terminal_chart import terminal_chart


def test_every_mean_is_on_the_scale_and_the_recommended_one_is_marked(tmp_path):
    RUNS["complete"](tmp_path)
    answer = answer_of(tmp_path)
    head, *lines = terminal_chart(answer).splitlines()

    assert head.startswith("val_loss, lower is better (")
    assert len(lines) == len(answer.contenders)
    assert all(len(line) <= 80 for line in (head, *lines))
    assert [line.split("|")[0].split()[0] for line in lines] == ["16", "32", "64"]
    places = {}
    for one, line in zip(sorted(answer.contenders, key=lambda c: c.batch_size), lines, strict=True):
        mark = "*" if one.key == answer.recommended_trial else "o"
        places[one.objective().mean] = line.split("|")[1].index(mark)
        assert line.endswith(str(one.objective()))
    assert [places[mean] for mean in sorted(places)] == sorted(places.values())
    assert max(places.values()) >= 34
    assert sum("*" in line for line in lines) == 1
    assert "(baseline)" in lines[1]
