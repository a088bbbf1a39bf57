"""Records: exact files, every kind of damage, killed and simultaneous writers."""

from __future__ import annotations

import itertools
import json
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from processes import WarmProcess, run_warm

from tfbatch.dataset_info.recipe import ImageFeature, load_recipe
from tfbatch.errors import DataError, InputError, RecordError, RunFolderError, TfbatchError
from tfbatch.pipeline import PreparedData, prepare_records
from tfbatch.records import reader
from tfbatch.records.decoded_cache import decode_split as read_split
from tfbatch.records.manifest import load_manifest, read_manifest, recommended_shards
from tfbatch.records.plan import shard_bounds
from tfbatch.records.reader import find_damage, verify
from tfbatch.records.shard_files import read_finished
from tfbatch.records.writer import ExampleStream, write_records

FILES = [
    "manifest.json",
    "tiny-test.tfrecord-00000-of-00003",
    "tiny-test.tfrecord-00001-of-00003",
    "tiny-test.tfrecord-00002-of-00003",
    "tiny-train.tfrecord-00000-of-00003",
    "tiny-train.tfrecord-00001-of-00003",
    "tiny-train.tfrecord-00002-of-00003",
    "tiny-validation.tfrecord-00000-of-00003",
    "tiny-validation.tfrecord-00001-of-00003",
    "tiny-validation.tfrecord-00002-of-00003",
]
SHARD = "tiny-train.tfrecord-00001-of-00003"  # the examples 2, 3 and 4 of train
ALONE = "tiny-train.tfrecord-00000-of-00001"  # all eight, where there is one shard
HEADER, FOOTER = 12, 4  # a record's length with a checksum before it, its own checksum behind it
ENCODED = {
    "image": {"kind": "image", "shape": [4, 6, 3], "stored": "encoded"},
    "label": {"kind": "label", "num_classes": 3},
}


@pytest.fixture
def write(make_recipe, tiny_examples, tmp_path):
    """Writes the tiny records into tmp_path/PARENT/abc; returns that folder."""

    def write_into(parent="records", *, examples=tiny_examples, workers=1, **changes):
        folder = tmp_path / parent / "abc"
        recipe = make_recipe(**changes)
        write_records(folder, recipe=recipe, examples=examples, workers=workers)
        return folder

    return write_into


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def records_of(path):
    """The bytes of every record of a file, with its header and footer."""
    content, at, found = path.read_bytes(), 0, []
    while at < len(content):
        size = HEADER + int.from_bytes(content[at : at + 8], "little") + FOOTER
        found.append(content[at : at + size])
        at += size
    return found


def replace_unnoticed(path, content):
    """Changes a file and its size in the manifest, so that only its content can betray it."""
    path.write_bytes(content)
    manifest = json.loads((path.parent / "manifest.json").read_text())
    for shards in manifest["splits"].values():
        for shard in shards:
            if shard["name"] == path.name:
                shard["num_bytes"] = len(content)
    (path.parent / "manifest.json").write_text(json.dumps(manifest))


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


def framed(payload, tmp_path):
    """A record with valid checksums."""
    with tf.io.TFRecordWriter(str(tmp_path / "one")) as writer:
        writer.write(payload)
    return (tmp_path / "one").read_bytes()


def example(image, label=0):
    message = tf.train.Example()
    message.features.feature["image"].bytes_list.value.append(image)
    message.features.feature["label"].int64_list.value.append(label)
    return message.SerializeToString()


def read_whole(folder):
    return read_split(folder, load_manifest(folder), "train")


def look_for_damage(folder):
    damage = find_damage(folder, load_manifest(folder), "train")
    if damage:
        raise damage


READERS = (verify, read_whole, look_for_damage)


def assert_refused(path, record, problem, *, readers=READERS):
    """Every reader names the same file and record, and the same remedy."""
    folder = path.parent
    where = f"{path}: {problem}" if record is None else f"{path}: record {record}: {problem}"
    for read in readers:
        with pytest.raises(RecordError) as caught:
            read(folder)
        assert (caught.value.path, caught.value.record) == (path, record)
        assert str(caught.value).startswith(where)
        assert str(caught.value).endswith(f"Delete the folder {folder} and prepare the data again.")


def test_eight_records_are_dealt_out_to_literal_files(write):
    folder = write()

    assert names(folder) == FILES
    assert names(folder.parent) == ["abc"]
    assert [len(records_of(folder / n)) for n in FILES[1:]] == [1, 1, 2, 2, 3, 3, 1, 1, 2]


def test_a_record_has_literal_bytes(write, tiny_examples):
    image = list(tiny_examples())[3][2]["image"]

    record = records_of(write() / SHARD)[1]  # example 3 of train has the class 0

    assert record[HEADER:-FOOTER] == (
        b"\x0a\x67\x0a\x55\x0a\x05image\x12\x4c\x0a\x4a\x0a\x48"
        + image.tobytes()
        + b"\x0a\x0e\x0a\x05label\x12\x05\x1a\x03\x0a\x01\x00"
    )


def test_the_manifest_says_what_is_there(write):
    folder = write()
    manifest = json.loads((folder / "manifest.json").read_text())

    assert manifest["format_version"] == 1
    assert manifest["dataset"] == "tiny"
    assert manifest["records_hash"] == "abc"
    assert manifest["class_counts"] == {
        **{"train": [3, 3, 2], "validation": [2, 1, 1], "test": [2, 1, 1]}
    }
    for split in ("train", "validation", "test"):
        for shard in manifest["splits"][split]:
            path = folder / shard["name"]
            assert shard["num_bytes"] == path.stat().st_size
            assert shard["num_examples"] == len(records_of(path))
    assert verify(folder) == read_manifest(folder)


@pytest.mark.parametrize("stored", ["raw", "encoded"])
def test_what_is_read_is_what_was_written_in_the_same_order(write, tiny_examples, stored):
    def encoded():
        for split, key, e in tiny_examples():
            yield split, key, {**e, "image": tf.io.encode_png(e["image"]).numpy()}

    folder = write() if stored == "raw" else write(examples=encoded, features=ENCODED)

    images, labels = read_whole(folder)

    want = [e for split, _, e in tiny_examples() if split == "train"]
    np.testing.assert_array_equal(images, np.stack([e["image"] for e in want]))
    assert labels.tolist() == [e["label"] for e in want]
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 1797, 50_000])
@pytest.mark.parametrize("shards", [1, 3, 8, 100])
def test_sizes_of_shards_differ_by_at_most_one(count, shards):
    bounds = shard_bounds(count, shards)
    lengths = [high - low for low, high in itertools.pairwise(bounds)]

    assert (len(lengths), sum(lengths)) == (shards, count)
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    ("count", "shape", "stored", "shards"),
    [
        pytest.param(1_437, [8, 8, 1], "raw", 4, id="digits"),
        pytest.param(45_000, [32, 32, 3], "raw", 4, id="CIFAR-10"),
        pytest.param(1_281_167, [224, 224, 3], "raw", 1437, id="ImageNet, raw"),
        pytest.param(1_281_167, [224, 224, 3], "encoded", 180, id="ImageNet, JPEG"),
        pytest.param(10**9, [224, 224, 3], "raw", 9999, id="a billion"),
    ],
)
def test_a_shard_of_a_large_data_set_has_about_128_mib(count, shape, stored, shards):
    image = ImageFeature(kind="image", shape=shape, stored=stored)

    assert recommended_shards(count, image) == shards


def test_more_shards_than_records_leave_some_empty_and_are_read(write, make_recipe):
    folder = write(shards=5)

    assert sorted(s.num_examples for s in verify(folder).splits["test"]) == [0] + [1] * 4
    assert read_whole(folder)[0][:, 0, 0, 0].tolist() == list(range(8))
    streamed = PreparedData(make_recipe(shards=5), folder, resident_share=0)
    stream = streamed.training(batch_size=3, seed=1, num_examples=8)
    assert sum(len(y) for _, y in stream) == 8


def test_writing_twice_gives_the_same_bytes(write):
    first, second = write("one"), write("other")

    assert [(first / n).read_bytes() for n in FILES] == [(second / n).read_bytes() for n in FILES]


def test_records_that_are_there_are_not_written_again(write):
    folder = write()

    def never():
        raise AssertionError("the examples were asked for")

    assert write(examples=never) == folder


def test_a_truncated_shard_is_refused_with_its_first_damaged_record(write, make_recipe):
    path = write() / SHARD
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-5])

    with pytest.raises(RecordError) as caught:
        read_manifest(path.parent)
    assert f"{path}: the file has {size - 5} bytes, the manifest says {size}." in str(caught.value)
    assert_refused(path, 2, "its checksum differs: the file was cut or changed.")
    with pytest.raises(RecordError, match="record 2: its checksum differs"):
        PreparedData(make_recipe(), path.parent)


def test_a_shard_cut_between_two_records_is_noticed_by_its_size(write):
    path = write() / SHARD
    one, two, three = records_of(path)
    path.write_bytes(one + two)

    problem = f"the file has {len(one + two)} bytes, the manifest says {len(one + two + three)}."
    assert_refused(path, None, problem, readers=[verify, look_for_damage])
    assert_refused(path, 2, "the file holds fewer than the 3", readers=[read_whole])


def test_a_missing_shard_is_noticed(write):
    path = write() / SHARD
    path.unlink()

    assert_refused(path, None, "the file is absent, the manifest lists it.")


def test_a_shard_that_vanishes_after_the_check_is_noticed(write):
    folder = write()
    manifest = read_manifest(folder)
    (folder / SHARD).unlink()

    with pytest.raises(RecordError, match="the file is absent") as caught:
        read_split(folder, manifest, "train")

    assert caught.value.path == folder / SHARD


def test_a_record_is_counted_within_its_own_file(write):
    path = write() / SHARD
    one, two, three = records_of(path)
    path.write_bytes(one + flipped(two, 50) + three)

    assert_refused(path, 1, "its checksum differs: the file was cut or changed.")


@pytest.mark.parametrize(
    ("cut", "problem"),
    [
        (1, "its checksum differs: the file was cut or changed."),
        (FOOTER + 20, "its checksum differs: the file was cut or changed."),
        # Less than a header: TensorFlow takes it for the end of the file, the count does not.
        (121 - HEADER + 1, "the file holds fewer than the 8 records of the manifest."),
        (120, "the file holds fewer than the 8 records of the manifest."),
    ],
)
def test_a_shard_cut_within_its_last_record_names_that_record(write, cut, problem):
    path = write(shards=1) / ALONE
    replace_unnoticed(path, path.read_bytes()[:-cut])

    assert_refused(path, 7, problem)


@pytest.mark.quick_cases("length", "middle")
@pytest.mark.parametrize(
    "place",
    [
        pytest.param(0, id="length"),
        pytest.param(8, id="length's checksum"),
        pytest.param(HEADER + 60, id="middle"),
        pytest.param(-FOOTER - 1, id="last byte"),
        pytest.param(-1, id="checksum"),
    ],
)
def test_one_flipped_bit_names_its_record(write, place):
    path = write(shards=1) / ALONE
    records = records_of(path)
    records[4] = flipped(records[4], place % len(records[4]))
    path.write_bytes(b"".join(records))

    assert_refused(path, 4, "its checksum differs: the file was cut or changed.")


def test_a_record_removed_at_its_bounds_is_noticed_by_the_count(write):
    path = write(shards=1) / ALONE
    records = records_of(path)
    replace_unnoticed(path, b"".join(records[:3] + records[4:]))

    assert_refused(path, 7, "the file holds fewer than the 8 records of the manifest.")


def test_a_record_too_many_is_noticed_by_the_count(write):
    path = write(shards=1) / ALONE
    replace_unnoticed(path, path.read_bytes() + records_of(path)[0])

    assert_refused(path, 8, "the file holds more than the 8 records of the manifest.")


@pytest.mark.parametrize(
    "payload", [b"", b"not an example", example(b"x" * 71)], ids=["empty", "text", "short image"]
)
def test_a_record_that_cannot_be_decoded_is_named(write, tmp_path, payload):
    path = write(shards=1) / ALONE
    records = records_of(path)
    records[2] = framed(payload, tmp_path)
    replace_unnoticed(path, b"".join(records))

    assert_refused(path, 2, "cannot be decoded: ")


def test_a_record_in_the_wrong_file_is_noticed_though_the_sum_is_right(write):
    folder = write()
    first, second = (folder / f"tiny-train.tfrecord-0000{i}-of-00003" for i in (0, 1))
    one, two, three = records_of(second)
    replace_unnoticed(first, first.read_bytes() + one)
    replace_unnoticed(second, two + three)

    assert_refused(first, 2, "the file holds more than the 2 records of the manifest.")

    replace_unnoticed(first, b"".join(records_of(first)[:1]))
    replace_unnoticed(second, one + one + two + three)

    assert_refused(first, 1, "the file holds fewer than the 2 records of the manifest.")


def test_hundreds_of_files_are_read_by_one_pipeline(write, monkeypatch):
    """A pipeline and a trace for each file would take seconds."""
    real, traced = reader.decode_batch, []
    monkeypatch.setattr(reader, "decode_batch", lambda *a: traced.append(1) or real(*a))
    folder = write(shards=300)

    images, labels = read_whole(folder)

    assert (images[:, 0, 0, 0].tolist(), len(labels)) == (list(range(8)), 8)
    assert len(traced) == 1


def test_valid_records_in_another_order_are_noticed_by_the_checksum_of_the_file(write):
    path = write(shards=1) / ALONE
    path.write_bytes(b"".join(reversed(records_of(path))))

    read_whole(path.parent)
    assert_refused(path, None, "the checksum differs from the manifest's.", readers=[verify])


def test_class_counts_that_differ_are_noticed(write):
    folder = write()
    text = (folder / "manifest.json").read_text()
    manifest = json.loads(text)
    manifest["class_counts"]["train"] = [2, 3, 3]
    (folder / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(RecordError, match="the classes of `train` differ in number"):
        verify(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "manifest.json cannot be read: "),
        ("{", "manifest.json cannot be read: "),
        ("[]", "manifest.json cannot be read: "),
        ('{"format_version": 1}', "manifest.json cannot be read: "),
        (b"\xff\xfe", "manifest.json cannot be read: "),
        ("future", "manifest.json has format version 2; this tfbatch reads 1."),
        ("unknown", "manifest.json cannot be read: "),
    ],
    ids=["empty", "cut", "list", "keys missing", "binary", "future", "unknown key"],
)
def test_a_malformed_manifest_is_refused_by_its_name(write, make_recipe, text, message):
    folder = write()
    path = folder / "manifest.json"
    if text == "future":
        text = path.read_text().replace('"format_version": 1', '"format_version": 2')
    if text == "unknown":
        text = path.read_text().replace('"dataset"', '"more": 1, "dataset"')
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    for use in (read_manifest, verify, lambda f: PreparedData(make_recipe(), f)):
        with pytest.raises(DataError) as caught:
            use(folder)
        assert str(caught.value).startswith(f"{folder}/{message}")
        assert "prepare the data again." in str(caught.value)


def test_a_folder_without_a_manifest_is_no_data_set(tmp_path, make_recipe):
    with pytest.raises(DataError) as caught:
        PreparedData(make_recipe(), tmp_path)

    assert str(caught.value) == f"{tmp_path} holds no records (no manifest.json in it)."


def encoded_as(encode, shape):
    return lambda: encode(np.zeros(shape, np.uint8)).numpy()


@pytest.mark.parametrize(
    ("features", "image", "label", "message"),
    [
        ({}, None, 3, "Example train-5 has the label 3, outside the 3 classes of the recipe"),
        ({}, None, -1, "Example train-5 has the label -1, outside the 3 classes of the recipe"),
        (
            {},
            lambda: np.zeros((6, 4, 3), np.uint8),
            0,
            "Example train-5 has an image of shape (6, 4, 3); the recipe says (4, 6, 3).",
        ),
        ({}, lambda: b"noise", 0, "train-5 cannot be decoded as an image: "),
        (
            ENCODED,
            None,
            0,
            "Example train-5 has no encoded image. Set `features.image.stored: raw`",
        ),
        (
            ENCODED,
            encoded_as(tf.io.encode_png, (6, 4, 3)),
            0,
            "Example train-5 has an image of shape (6, 4, 3); the recipe says (4, 6, 3).",
        ),
        (
            ENCODED,
            encoded_as(tf.io.encode_jpeg, (6, 4, 3)),
            0,
            "Example train-5 has an image of shape (6, 4, 3); the recipe says (4, 6, 3).",
        ),
        (ENCODED, lambda: b"noise", 0, "train-5 cannot be decoded as an image: "),
        (ENCODED, lambda: b"\xff\xd8\xff", 0, "train-5 cannot be decoded as an image: "),
    ],
    ids=[
        "label",
        "negative",
        "raw shape",
        "raw noise",
        "pixels",
        "png shape",
        "jpeg shape",
        "noise",
        "cut jpeg",
    ],
)
def test_an_example_that_does_not_fit_its_recipe_is_refused(
    write, tiny_examples, tmp_path, features, image, label, message
):
    def examples():
        for split, key, e in tiny_examples():
            if key == "train-5":
                e = {"image": image() if image else e["image"], "label": label}
            elif features:
                e = {**e, "image": tf.io.encode_png(e["image"]).numpy()}
            yield split, key, e

    with pytest.raises(TfbatchError) as caught:
        write(examples=examples, **({"features": features} if features else {}))

    assert str(caught.value).startswith(message)
    assert names(tmp_path / "records") == []


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_empty_split_is_refused(write, tiny_examples, tmp_path, split):
    with pytest.raises(InputError, match=f"The split `{split}` of tiny is empty: "):
        write(examples=lambda: tiny_examples(**{split: 0}))

    assert names(tmp_path / "records") == []


def test_a_place_that_cannot_be_written_is_refused_with_the_remedy(write, tmp_path):
    (tmp_path / "records").write_text("a file")

    with pytest.raises(RunFolderError, match="--records_dir=DIR or TFBATCH_RECORDS_DIR"):
        write()


def test_a_folder_in_the_way_is_refused_and_left_alone(write, tmp_path):
    (tmp_path / "records" / "abc").mkdir(parents=True)
    (tmp_path / "records" / "abc" / "letter.txt").write_text("mine")

    with pytest.raises(RunFolderError, match=r"abc is in the way: it holds no manifest\.json"):
        write()

    assert (tmp_path / "records" / "abc" / "letter.txt").read_text() == "mine"
    assert names(tmp_path / "records") == ["abc"]


def test_a_source_that_cannot_be_read_is_not_blamed_on_the_records_folder(tmp_path, monkeypatch):
    def fail(self, split, data_dir):
        yield "one", {"image": np.zeros((8, 8, 1), np.uint8), "label": 0}
        raise OSError("disk on fire")

    monkeypatch.setattr("tfbatch.sources.digits.Source.examples", fail)

    with pytest.raises(DataError, match="The source's split `train` cannot be read: disk on fire"):
        prepare_records(load_recipe("digits"), records_dir=tmp_path)


def test_preparing_tells_how_far_it_is_and_whether_it_wrote(tmp_path):
    recipe, told = load_recipe("digits"), []

    def progress(*state):
        told.append(state)

    folder, written = prepare_records(recipe, records_dir=tmp_path, progress=progress)
    again, again_written = prepare_records(recipe, records_dir=tmp_path, progress=progress)

    assert (again, written, again_written) == (folder, True, False)
    assert told == [
        *[("classes of train", 1000, 1797), ("classes of train", 1797, 1797)],
        *[("train", 1000, 1797), ("train", 1797, 1797)],
    ]
    assert folder.parent == (tmp_path / "digits").resolve()
    assert (
        sum(read_manifest(folder).num_examples(s) for s in ("train", "validation", "test")) == 1797
    )


def test_leftovers_of_killed_runs_are_removed(write, tmp_path):
    """Whatever their random name, and whether they still have a lock file."""
    for name in (".partial-abc-0000000k", ".partial-other-12345678"):
        (tmp_path / "records" / name).mkdir(parents=True)
        (tmp_path / "records" / name / "train.spool").write_bytes(b"half")
    (tmp_path / "records" / ".partial-other-12345678.lock").touch()

    write()

    assert names(tmp_path / "records") == ["abc"]


CHILD = """
import pathlib, sys
from conftest import tiny_stream
from tfbatch.dataset_info.recipe import Recipe
from tfbatch.records.writer import write_records

times_read = 0

def examples():
    global times_read
    times_read += 1
    for split, key, example in tiny_stream():
        if times_read == 2 and key == "validation-1":
            print("in the middle", flush=True)
            sys.stdin.readline()
        yield split, key, example

recipe = Recipe.model_validate_json(sys.argv[1])
write_records(pathlib.Path(sys.argv[2]), recipe=recipe, examples=examples)
print("written", flush=True)
"""


@pytest.fixture
def child_in_the_middle(make_recipe, tmp_path):
    """Another process, waiting in the middle of writing the tiny records."""
    recipe = make_recipe().model_dump_json(by_alias=True)
    folder = tmp_path / "records" / "abc"
    with WarmProcess("-c", CHILD, recipe, folder, cwd=Path(__file__).parent) as child:
        assert child.stdout.readline() == "in the middle\n"
        yield child


def test_a_killed_writer_leaves_nothing_that_looks_whole_and_the_next_clears_up(
    child_in_the_middle, write, tmp_path
):
    child_in_the_middle.kill()
    assert child_in_the_middle.wait() == -signal.SIGKILL

    left = names(tmp_path / "records")
    assert len(left) == 2
    assert all(name.startswith(".partial-abc-") for name in left)
    assert not list((tmp_path / "records").rglob("manifest.json"))

    assert names(write()) == FILES
    assert names(tmp_path / "records") == ["abc"]


def test_two_writers_at_once_both_succeed_with_one_folder(child_in_the_middle, write, tmp_path):
    folder = write()  # while the other process is in the middle
    before = {n: ((folder / n).read_bytes(), (folder / n).stat().st_ino) for n in FILES}
    assert len(names(tmp_path / "records")) == 3  # what the other is writing is not touched

    output, _ = child_in_the_middle.communicate("go on\n")

    assert (output, child_in_the_middle.poll()) == ("written\n", 0)
    assert names(tmp_path / "records") == ["abc"]
    assert names(folder) == FILES
    assert before == {n: ((folder / n).read_bytes(), (folder / n).stat().st_ino) for n in FILES}
    verify(folder)


@pytest.mark.slow
def test_cifar10_is_prepared_and_verified(cifar10_dir, tmp_path):
    folder, written = prepare_records(
        load_recipe("cifar10"), data_dir=cifar10_dir, records_dir=tmp_path
    )

    manifest = verify(folder)
    assert written
    assert [manifest.num_examples(s) for s in ("train", "validation", "test")] == [
        *(45_000, 5_000, 10_000)
    ]
    assert manifest.class_counts["validation"] == (500,) * 10


def count_off(count):
    """A stream of numbered examples that can be read from any of them on."""

    def splits():
        for number in range(count):
            yield ("train", "train", "validation", "test")[number % 4]

    def examples(start):
        for number in range(start, count):
            image = np.full((4, 6, 3), number % 251, np.uint8)
            yield f"{number}", {"image": image, "label": number % 3}

    return ExampleStream(splits=splits, examples=examples)


def interrupted(stream, *, at):
    """The same stream, until an example is asked for that the user no longer waits for."""

    def examples(start):
        for key, example in stream.examples(start):
            if key == str(at):
                raise KeyboardInterrupt
            yield key, example

    return ExampleStream(splits=stream.splits, examples=examples)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def written_at(path):
    """Changes with every new writing of a file."""
    return path.stat().st_ino, path.stat().st_mtime_ns


@pytest.fixture
def whole(write):
    """The bytes of 1,000 numbered examples in 15 shards, written undisturbed."""
    return bytes_of(write("whole", examples=count_off(1000), shards=5))


@pytest.fixture
def half_done(write, whole, tmp_path):
    """What a preparation has left that was interrupted in the middle; its finished shards."""
    del whole
    with pytest.raises(KeyboardInterrupt):
        write(examples=interrupted(count_off(1000), at=700), shards=5)
    (partial,) = (tmp_path / "records").glob(".partial-abc-????????")
    sealed = [done.shard.name for done in read_finished(partial)]
    assert len(sealed) == 6  # two chunks of 256: two of the five shards of each split
    return partial / "records", sealed


@pytest.mark.parametrize("workers", [2, 5])
def test_the_bytes_do_not_depend_on_the_number_of_workers(write, make_recipe, whole, workers):
    folder = write("many", examples=count_off(1000), shards=5, workers=workers)

    assert bytes_of(folder) == whole


def test_an_interrupted_preparation_is_continued_without_writing_a_finished_shard_again(
    write, whole, half_done, tmp_path
):
    built, sealed = half_done
    before = {name: written_at(built / name) for name in sealed}
    stream, starts = count_off(1000), []
    told = ExampleStream(
        splits=lambda: pytest.fail("the plan is there"),
        examples=lambda start: starts.append(start) or stream.examples(start),
    )

    folder = write(examples=told, shards=5)

    assert starts == [400]
    assert {name: written_at(folder / name) for name in sealed} == before
    assert bytes_of(folder) == whole
    assert names(tmp_path / "records") == ["abc"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-5]),
        lambda path: path.write_bytes(flipped(path.read_bytes(), 70)),
        lambda path: path.unlink(),
    ],
    ids=["truncated", "flipped", "missing"],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_finished_shard_that_is_damaged_is_written_again_when_continued(
    write, whole, half_done, damage, workers
):
    built, sealed = half_done
    victim = "tiny-train.tfrecord-00001-of-00005"
    kept = {name: written_at(built / name) for name in sealed if name != victim}
    damage(built / victim)

    folder = write(examples=count_off(1000), shards=5, workers=workers)

    assert bytes_of(folder) == whole
    assert {name: written_at(folder / name) for name in kept} == kept


def test_a_torn_note_of_a_finished_shard_costs_that_shard_alone(write, whole, half_done):
    built, sealed = half_done
    notes = built.parent / "sealed.jsonl"
    notes.write_bytes(notes.read_bytes()[:-20])
    kept = {name: written_at(built / name) for name in sealed[:-1]}

    folder = write(examples=count_off(1000), shards=5)

    assert bytes_of(folder) == whole
    assert {name: written_at(folder / name) for name in kept} == kept


@pytest.mark.parametrize("name", ["plan.bin", "plan.json"])
def test_a_damaged_plan_is_not_continued(write, whole, half_done, name):
    built, sealed = half_done
    path = built.parent / name
    path.write_bytes(flipped(path.read_bytes(), 5))
    before = {shard: written_at(built / shard) for shard in sealed}

    folder = write(examples=count_off(1000), shards=5)

    assert bytes_of(folder) == whole
    assert all(written_at(folder / shard) != at for shard, at in before.items())


def test_what_another_recipe_has_left_is_removed_and_never_continued(
    write, half_done, tmp_path, make_recipe
):
    other = tmp_path / "records" / "def"

    write_records(other, recipe=make_recipe(shards=2), examples=count_off(40))

    assert names(tmp_path / "records") == ["def"]
    assert verify(other).num_examples("train") == 20


def test_a_folder_in_the_way_is_refused_before_any_work(write, tmp_path):
    (tmp_path / "records" / "abc").mkdir(parents=True)
    (tmp_path / "records" / "abc" / "letter.txt").write_text("mine")

    with pytest.raises(RunFolderError, match="is in the way"):
        write(examples=lambda: pytest.fail("the examples were asked for"))


@pytest.mark.parametrize(("second", "word"), [(999, "fewer"), (1001, "more")])
def test_a_source_that_gives_another_number_when_read_again_is_refused(
    write, tmp_path, second, word
):
    stream = ExampleStream(splits=count_off(1000).splits, examples=count_off(second).examples)

    with pytest.raises(DataError, match=f"it gave 1000 first, then {word}. Prepare the data when"):
        write(examples=stream)

    assert names(tmp_path / "records") == []  # its plan would be wrong the next time too


@pytest.mark.parametrize("workers", [0, -1])
def test_workers_below_one_are_refused(write, workers):
    with pytest.raises(InputError, match=rf"`workers` must be >= 1\. Received: {workers}\."):
        write(workers=workers)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_full_disk_is_an_error_of_the_folder_and_the_rest_is_continued(
    write, whole, tmp_path, workers
):
    """A file may not become larger than its shard but by a little: the first longer one fails."""
    size = len(whole["tiny-train.tfrecord-00000-of-00005"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        with pytest.raises(RunFolderError, match="same command continues where it stopped"):
            write(examples=count_off(1000), shards=5, workers=workers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert not (tmp_path / "records" / "abc").exists()
    assert bytes_of(write(examples=count_off(1000), shards=5, workers=workers)) == whole
    assert names(tmp_path / "records") == ["abc"]


KILLED = """
import json, os, pathlib, random, signal, sys
from test_records import count_off
from tfbatch.dataset_info.recipe import Recipe
from tfbatch.records.shard_files import read_finished
from tfbatch.records.writer import ExampleStream, write_records

recipe = Recipe.model_validate_json(sys.argv[1])
folder, count, kills, workers = pathlib.Path(sys.argv[2]), *map(int, sys.argv[3:6])
draw = random.Random(count)
sealed, killed = {}, 0

def prepare(tell):
    stream = count_off(count)
    def examples(start):
        for item in stream.examples(start):
            os.write(tell, b".")
            yield item
    told = ExampleStream(splits=stream.splits, examples=examples)
    write_records(folder, recipe=recipe, examples=told, workers=workers)

while not folder.exists():
    reading, telling = os.pipe()
    child = os.fork()  # before any operation of TensorFlow: it has no threads yet
    if not child:
        os.close(reading)
        prepare(telling)
        os._exit(0)
    os.close(telling)
    left = draw.randrange(count // kills // 2, count // kills) if killed < kills else count + 1
    while left > 0 and (heard := os.read(reading, 4096)):
        left -= len(heard)
    if left <= 0:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    for partial in folder.parent.glob(".partial-abc-????????"):
        for done in read_finished(partial):
            found = (partial / "records" / done.shard.name).stat()
            sealed.setdefault(done.shard.name, (found.st_ino, found.st_mtime_ns))
print(json.dumps({"killed": killed, "sealed": sealed}))
"""


@pytest.mark.parametrize(
    ("count", "kills", "workers"),
    [
        pytest.param(12_000, 2, 2, id="2 kills"),
        pytest.param(30_000, 10, 1, id="10 kills, 1 worker", marks=pytest.mark.slow),
        pytest.param(90_000, 12, 3, id="12 kills, 3 workers", marks=pytest.mark.slow),
    ],
)
def test_a_preparation_that_is_killed_again_and_again_ends_with_the_same_bytes(
    write, make_recipe, tmp_path, count, kills, workers
):
    recipe = make_recipe(shards=100)
    arguments = (recipe.model_dump_json(by_alias=True), tmp_path / "killed" / "abc")
    run = run_warm("-c", KILLED, *arguments, count, kills, workers, cwd=Path(__file__).parent)
    told = json.loads(run.stdout)
    folder = tmp_path / "killed" / "abc"

    assert told["killed"] == kills
    assert told["sealed"], "none of the kills came after a finished shard"
    for name, at in told["sealed"].items():
        assert written_at(folder / name) == tuple(at), f"{name} was written twice"
    assert bytes_of(folder) == bytes_of(write("whole", examples=count_off(count), shards=100))
    assert names(folder.parent) == ["abc"]


LARGE = """
import json, pathlib, sys
import numpy as np
from tfbatch.dataset_info.recipe import Recipe
from tfbatch.records.writer import ExampleStream, write_records

recipe, count, peaks = Recipe.model_validate_json(sys.argv[1]), int(sys.argv[3]), {}

def peak():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))

def examples(start):
    draw = np.random.default_rng(0)
    for number in range(start, count):
        if number in (count // 10, count - 1):
            peaks[number] = peak()
        image = draw.integers(0, 256, recipe.features.image.shape, np.uint8)
        yield f"{number}", {"image": image, "label": number % 3}

def splits():
    return (("train", "validation", "test")[max(0, n + 3 - count)] for n in range(count))

stream = ExampleStream(splits=splits, examples=examples)
write_records(pathlib.Path(sys.argv[2]), recipe=recipe, examples=stream, workers=2)
print(json.dumps([*peaks.values(), peak()]))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_what_is_written(make_recipe, tmp_path):
    """1.2 GB, of which a tenth is written when the first peak is read; the peak is the child's."""
    features = make_recipe().features.model_dump(mode="json")
    features["image"]["shape"] = [128, 128, 3]
    recipe = make_recipe(features=features, shards=8)
    count = 1_200_000_000 // (128 * 128 * 3)
    written = recipe.model_dump_json(by_alias=True)
    run = run_warm("-c", LARGE, written, tmp_path / "records" / "abc", count)

    tenth, last, end = json.loads(run.stdout)

    assert end < tenth + 40, (tenth, last, end)  # MiB
