import pytest

from model.data import DataError, archives, load
from model.data.archives import archive_names, load_archive, shipped_folder

CLASSES = "@classLabel true a b\n@data\n1,2:a\n3:a\n4:b\n5:b\n"
TARGETS = "@targetLabel true\n@data\n1,2:0.5\n"


@pytest.fixture
def folder(tmp_path):
    """What aeon ships, in small: two pairs in one folder, a lone half, and sets for regression and forecasting."""
    contents = {
        "Vowels/Vowels_TRAIN.ts": CLASSES,
        "Vowels/Vowels_TEST.ts": CLASSES,
        "Vowels/Vowels_eq_TRAIN.ts": CLASSES,
        "Vowels/Vowels_eq_TEST.ts": CLASSES,
        "Lone/Lone_TEST.ts": CLASSES,
        "Covid/Covid_TRAIN.ts": TARGETS,
        "Airline/Airline.csv": "1,2\n",
    }
    for name, text in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_every_classification_set_is_listed_and_nothing_else(folder):
    assert archive_names(folder) == ("Lone", "Vowels", "Vowels_eq")


def test_a_pair_keeps_its_own_halves(folder):
    dataset = load_archive("Vowels", folder=folder, seed=0)
    assert (len(dataset.train), len(dataset.test)) == (4, 4)


def test_a_lone_half_is_split(folder):
    dataset = load_archive("Lone", folder=folder, seed=0)
    assert sorted(dataset.train.targets) == sorted(dataset.test.targets) == [0, 1]


def test_source_and_licence_point_to_the_archive_and_the_original_set(folder):
    dataset = load_archive("Vowels_eq", folder=folder, seed=0)
    assert dataset.name == "Vowels_eq"
    assert "https://timeseriesclassification.com/description.php?Dataset=Vowels," in dataset.source
    assert "see timeseriesclassification.com" in dataset.licence


@pytest.mark.parametrize("name", ["vowels", "Vowel", "VOWELS"])
def test_an_unknown_name_is_refused_with_close_matches_first(folder, name):
    with pytest.raises(DataError, match=rf"unknown data set '{name}'; .* one of Vowels, Vowels_eq, Lone$"):
        load_archive(name, folder=folder, seed=0)


@pytest.mark.parametrize("name", ["Covid", "Airline"])
def test_a_set_for_another_task_is_refused_as_such(folder, name):
    with pytest.raises(DataError, match=f"'{name}' ships with aeon but is not a classification set; allowed: Lone"):
        load_archive(name, folder=folder, seed=0)


def test_without_aeon_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(archives.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataError, match="aeon is not installed: pip install"):
        shipped_folder()


def test_every_set_that_aeon_ships_loads():
    names = archive_names(shipped_folder())
    assert "JapaneseVowels" in names
    for name in names:
        assert load(name, seed=0).name == name


def test_japanese_vowels_is_what_the_design_says():
    dataset = load("JapaneseVowels", seed=0)
    assert dataset.labels == tuple("123456789")
    assert dataset.input_size == 12
    assert (len(dataset.train), len(dataset.test)) == (270, 370)
    lengths = [len(sequence) for split in (dataset.train, dataset.test) for sequence in split.sequences]
    assert (min(lengths), max(lengths)) == (7, 29)
