from pathlib import Path

import pytest

from model.data import DataError, load
from model.data.files import is_file_name

TS = "@classLabel true a b\n@data\n1,2:a\n3:a\n4:b\n5:b\n"


@pytest.mark.parametrize("dataset", ["x.csv", "x.npz", "x.parquet", "x.ts", "folder/x", "./x"])
def test_a_known_suffix_or_a_folder_makes_a_path_whether_or_not_it_exists(dataset):
    assert is_file_name(dataset)


@pytest.mark.parametrize("dataset", ["JapaneseVowels", "x.txt", "", ".."])
def test_anything_else_is_a_name(dataset):
    assert not is_file_name(dataset)


def test_the_bare_stem_of_a_pair_in_the_working_directory_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_file_name("G")
    Path("G_TRAIN.ts").write_text(TS)
    assert is_file_name("G")
    assert load("G", seed=0).name == "G"


@pytest.mark.parametrize("suffix", [".csv", ".npz", ".parquet", ".ts"])
def test_a_missing_file_is_refused_by_path(tmp_path, suffix):
    path = tmp_path / f"absent{suffix}"
    with pytest.raises(DataError, match="no such file") as refusal:
        load(str(path), seed=0)
    assert str(path) in str(refusal.value)


def test_an_unknown_suffix_and_a_folder_are_refused_with_what_is_allowed(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("")
    with pytest.raises(DataError, match=r"got a \.txt, allowed: \['\.npz', '\.csv', '\.parquet', '\.ts'\]"):
        load(str(path), seed=0)
    with pytest.raises(DataError, match="got a folder"):
        load(str(tmp_path), seed=0)


def test_a_data_set_names_its_file_and_not_the_folder_it_was_in(tmp_path):
    path = tmp_path / "gestures.ts"
    path.write_text(TS)
    dataset = load(str(path), seed=0)
    assert dataset.source == "file gestures.ts"
    assert dataset.licence == "not stated in the file"
