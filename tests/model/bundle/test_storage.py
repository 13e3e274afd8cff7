import errno
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from model_factories import CONTENTS, change_manifest, publish_made_up

from model.bundle import (
    MANIFEST,
    SCHEMA_VERSION,
    BundleError,
    check_writable,
    list_models,
    list_versions,
    open_bundle,
    publish,
    storage,
    survey,
)
from model.bundle.storage import SEAL

TESTS = Path(__file__).parents[1]
ALL_FILES = [MANIFEST, SEAL, *CONTENTS]


@pytest.fixture
def bundle(tmp_path):
    return publish_made_up(tmp_path)


def refused(folder, *named):
    """Check that opening `folder` is refused with a message that has every one of `named` in it."""
    with pytest.raises(BundleError) as caught:
        open_bundle(folder)
    for name in named:
        assert name in str(caught.value)


def test_whoever_serves_may_read_what_was_published(bundle):
    assert stat.S_IMODE(bundle.folder.stat().st_mode) == 0o755


def test_what_was_published_is_what_is_opened(bundle):
    opened = open_bundle(bundle.folder)
    assert opened == bundle
    assert {name: opened.read(name) for name in CONTENTS} == CONTENTS


def test_versions_count_up_by_model(tmp_path):
    versions = [publish_made_up(tmp_path, name).manifest.version for name in ("a", "b", "a", "a")]
    assert versions == [1, 1, 2, 3]
    assert list_models(tmp_path) == ("a", "b")
    assert list_versions(tmp_path, "a") == (1, 2, 3)


def test_a_number_is_not_used_again_while_a_higher_version_exists(tmp_path):
    for _ in range(3):
        publish_made_up(tmp_path)
    shutil.rmtree(tmp_path / "made-up" / "2")
    assert publish_made_up(tmp_path).manifest.version == 4


def test_a_repository_that_does_not_exist_holds_no_models(tmp_path):
    assert list_models(tmp_path / "nowhere") == ()
    assert list_versions(tmp_path / "nowhere", "made-up") == ()


def test_listing_passes_over_what_is_not_a_version(bundle):
    for name in ("01", "latest", "-1", "1.5"):
        (bundle.folder.parent / name).mkdir()
    (bundle.folder.parents[1] / ".staging-x").mkdir()
    (bundle.folder.parents[1] / "empty").mkdir()
    assert list_versions(bundle.folder.parents[1], "made-up") == (1,)
    assert list_models(bundle.folder.parents[1]) == ("made-up",)


@pytest.mark.parametrize("file", ALL_FILES)
def test_a_flipped_bit_anywhere_in_any_file_is_refused(bundle, file):
    path = bundle.folder / file
    content = path.read_bytes()
    for position in {0, len(content) // 3, len(content) // 2, len(content) - 1}:
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        refused(bundle.folder, MANIFEST if file == SEAL else file)
    path.write_bytes(content)
    open_bundle(bundle.folder)


@pytest.mark.parametrize("file", CONTENTS)
def test_a_file_that_changes_after_opening_is_refused_when_it_is_read(bundle, file):
    (bundle.folder / file).write_bytes(b"other")
    with pytest.raises(BundleError, match=file):
        bundle.read(file)


@pytest.mark.parametrize("file", ALL_FILES)
def test_a_missing_file_is_refused(bundle, file):
    (bundle.folder / file).unlink()
    refused(bundle.folder, file, "missing")


@pytest.mark.parametrize("file", ALL_FILES)
def test_a_link_in_place_of_a_file_is_refused_even_to_the_same_content(bundle, tmp_path, file):
    (bundle.folder / file).rename(tmp_path / "moved")
    (bundle.folder / file).symlink_to(tmp_path / "moved")
    refused(bundle.folder, file)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
@pytest.mark.parametrize("file", ALL_FILES)
def test_a_folder_or_a_pipe_in_place_of_a_file_is_refused_and_not_left_open(bundle, file, make):
    (bundle.folder / file).unlink()
    make(bundle.folder / file)
    silent_writer = os.open(bundle.folder / file, os.O_RDWR) if make is os.mkfifo else None
    before = len([*Path("/proc/self/fd").iterdir()])
    refused(bundle.folder, file)
    assert len([*Path("/proc/self/fd").iterdir()]) == before
    if silent_writer is not None:
        os.close(silent_writer)


def test_a_newer_schema_is_refused_whatever_else_it_holds(bundle):
    change_manifest(bundle.folder, lambda manifest: manifest.update(schema_version=SCHEMA_VERSION + 1, unheard_of=1))
    refused(bundle.folder, MANIFEST, f"schema version {SCHEMA_VERSION + 1}")


@pytest.mark.parametrize("path", ["/etc/passwd", "../model.onnx", "sub/model.onnx", "..", ".", MANIFEST])
def test_a_path_that_leaves_the_bundle_is_refused(bundle, path):
    change_manifest(bundle.folder, lambda manifest: manifest["files"].update({path: manifest["files"]["model.onnx"]}))
    refused(bundle.folder, MANIFEST, path)


def test_a_manifest_with_a_wrong_field_is_refused_by_its_name(bundle):
    change_manifest(bundle.folder, lambda manifest: manifest["training"].update(epochs="many"))
    refused(bundle.folder, MANIFEST, "training.epochs")


def test_a_manifest_that_is_not_json_is_refused(bundle):
    (bundle.folder / MANIFEST).write_text("{")
    (bundle.folder / SEAL).write_text(
        "021fb596db81e6d02bf3d2586ee3981fe519f275c0ac9ca76bbcf2ebb4097d96  manifest.json\n"
    )
    refused(bundle.folder, MANIFEST, "JSON")


@pytest.mark.parametrize("place", ["made-up/2", "other/1"])
def test_a_bundle_in_another_place_is_refused(bundle, place):
    moved = bundle.folder.parents[1] / place
    moved.parent.mkdir(exist_ok=True)
    bundle.folder.rename(moved)
    refused(moved, MANIFEST, "made-up/1", place)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a b", "x" * 101])
def test_a_name_that_cannot_be_a_folder_and_a_url_is_refused(tmp_path, name):
    with pytest.raises(BundleError, match="model name"):
        publish_made_up(tmp_path, name)
    assert [*tmp_path.iterdir()] == []


def test_publishers_at_the_same_time_each_get_a_version_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as publishers:
        bundles = [*publishers.map(publish_made_up, [tmp_path] * 16)]
    assert sorted(bundle.manifest.version for bundle in bundles) == [*range(1, 17)]
    for version in range(1, 17):
        open_bundle(tmp_path / "made-up" / str(version))


def test_a_description_that_fails_leaves_nothing_behind(tmp_path):
    def describe(version, files):
        raise LookupError(version, files)

    with pytest.raises(LookupError):
        publish(tmp_path, "made-up", CONTENTS, describe)
    assert list_models(tmp_path) == ()
    assert not [*tmp_path.glob(".staging-*")]


# Where the publisher is killed: after how many calls of which of its steps.
@pytest.mark.parametrize(("step", "calls"), [("_write_durably", 1), ("_write_durably", 6), ("_fsync", 1)])
def test_a_killed_publisher_leaves_the_repository_as_it_was(bundle, step, calls):
    repository = bundle.folder.parents[1]
    program = f"""
import os, signal, sys
from pathlib import Path
from model.bundle import storage
sys.path.insert(0, {str(TESTS)!r})
done, step = [], storage.{step}
def killed(*arguments):
    step(*arguments)
    done.append(arguments)
    if len(done) == {calls}:
        os.kill(os.getpid(), signal.SIGKILL)
storage.{step} = killed
storage.publish(Path({str(repository)!r}), "made-up", {CONTENTS!r}, lambda version, files: storage.parse_manifest(
    Path(), Path({str(bundle.folder / MANIFEST)!r}).read_bytes()
).model_copy(update=dict(version=version, files=files)))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()
    assert list_versions(repository, "made-up") == (1,)
    assert open_bundle(bundle.folder) == bundle
    assert [*repository.glob(".staging-*")], "killed too late to test anything"

    assert publish_made_up(repository).manifest.version == 2
    assert not [*repository.glob(".staging-*")], "the next publisher clears what was left"


def test_the_message_says_where_the_bundle_is(bundle):
    (bundle.folder / "model.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match=re.escape(str(bundle.folder / "model.onnx"))):
        open_bundle(bundle.folder)


def test_a_survey_tells_every_change_of_a_version_from_none(bundle):
    repository = bundle.folder.parents[1]

    def look():
        return survey(repository)["made-up"][1]

    before = look()
    open_bundle(bundle.folder)
    publish_made_up(repository)
    assert look() == before
    for change in (
        lambda: (bundle.folder / MANIFEST).write_bytes((bundle.folder / MANIFEST).read_bytes()),
        lambda: (bundle.folder / MANIFEST).chmod(0o600),
        (bundle.folder / "more").touch,
        (bundle.folder / "more").unlink,
        lambda: shutil.rmtree(bundle.folder),
    ):
        time.sleep(0.01)  # the file system's clock ticks every few milliseconds
        change()
        assert survey(repository)["made-up"].get(1) != before
        before = survey(repository)["made-up"].get(1)


def test_a_repository_that_is_missing_or_a_file_cannot_be_surveyed(tmp_path):
    with pytest.raises(BundleError, match="nowhere: missing"):
        survey(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="file: cannot be listed"):
        survey(tmp_path / "file")


def test_a_full_disk_publishes_nothing_and_says_where(bundle, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    repository = bundle.folder.parents[1]
    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        publish_made_up(repository)
    assert Path(caught.value.filename).is_relative_to(repository)
    assert list_versions(repository, "made-up") == (1,)
    assert not [*repository.glob(".staging-*")]


def test_whether_a_repository_can_be_written_is_found_out_without_a_trace(tmp_path, monkeypatch):
    check_writable(tmp_path / "new" / "bundles", "m")
    assert [path.name for path in (tmp_path / "new" / "bundles").iterdir()] == [".lock"]

    def refuse(**_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "bundles")

    monkeypatch.setattr(storage.tempfile, "mkdtemp", refuse)  # tests may run as root, whom no mode stops
    with pytest.raises(PermissionError):
        check_writable(tmp_path / "new" / "bundles", "m")
    assert [path.name for path in (tmp_path / "new" / "bundles").iterdir()] == [".lock"]


def test_a_file_where_a_folder_must_be_is_found_out(tmp_path):
    (tmp_path / "m").touch()
    for repository in (tmp_path, tmp_path / "m"):
        with pytest.raises(NotADirectoryError, match="is a file, not a folder") as caught:
            check_writable(repository, "m")
        assert caught.value.filename == str(tmp_path / "m")


@pytest.mark.parametrize("file", ALL_FILES)
def test_of_a_file_that_has_become_huge_no_more_is_read_than_may_be(bundle, file):
    with (bundle.folder / file).open("r+b") as opened:
        opened.truncate(2**40)  # a hole: it takes no room on the disk, and would take all memory
    with pytest.raises(BundleError, match=f"{file}: content differs: it is larger than"):
        open_bundle(bundle.folder)
