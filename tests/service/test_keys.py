"""Bearer keys: who is let in, and how an edited file is followed without a restart."""

import logging
import math
from pathlib import Path
from time import perf_counter

import pytest

from service.errors import Unauthorized
from service.keys import ApiKeys
from service.settings import SettingsError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("# staff\nsesame\n\n   open-up  \n# alice is no key\n")
    return path


def lets_in(keys: ApiKeys, authorization: bytes | None) -> bool:
    try:
        keys.check(authorization)
    except Unauthorized:
        return False
    return True


@pytest.mark.parametrize(
    "authorization", [b"Bearer sesame", b"bearer sesame", b"BEARER  sesame ", b"Bearer open-up"], ids=bytes.decode
)
def test_each_key_of_the_file_is_valid(file: Path, authorization: bytes) -> None:
    assert lets_in(ApiKeys(file), authorization)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer wrong",
        b"Bearer sesam",
        b"Bearer sesame2",
        b"Bearer Sesame",
        b"Bearer sesame open-up",
        b"sesame",
        b"Basic sesame",
        b"Token sesame",
        b"Bearer # staff",
        b"Bearer # alice is no key",
        b"Bearer \xff\xfe",
    ],
)
def test_everything_else_is_refused_with_the_way_to_ask(file: Path, authorization: bytes | None) -> None:
    with pytest.raises(Unauthorized, match="Authorization: Bearer KEY") as caught:
        ApiKeys(file).check(authorization)
    assert caught.value.headers == ((b"www-authenticate", b"Bearer"),)


def test_an_edited_file_adds_and_revokes_without_a_restart(file: Path) -> None:
    keys = ApiKeys(file)
    file.write_text("brand-new-key\nopen-up\n")
    assert lets_in(keys, b"Bearer brand-new-key")
    assert lets_in(keys, b"Bearer open-up")
    assert not lets_in(keys, b"Bearer sesame")


def test_a_file_that_another_one_replaces_is_read_again(file: Path) -> None:
    keys = ApiKeys(file)
    other = file.with_name("other")
    other.write_text("x" * len(file.read_text()))
    other.rename(file)
    assert not lets_in(keys, b"Bearer sesame")
    assert lets_in(keys, b"Bearer " + file.read_bytes())


def test_a_deleted_file_revokes_all_until_it_is_back(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = ApiKeys(file)
    content = file.read_text()
    file.unlink()
    assert not lets_in(keys, b"Bearer sesame")
    assert not lets_in(keys, b"Bearer sesame")
    assert [record.levelname for record in caplog.records] == ["ERROR"], "told once, not with every request"
    file.write_text(content)
    assert lets_in(keys, b"Bearer sesame")


def test_a_file_that_is_emptied_revokes_all(file: Path) -> None:
    keys = ApiKeys(file)
    file.write_text("# nobody\n")
    assert not lets_in(keys, b"Bearer sesame")
    assert not lets_in(keys, b"Bearer ")


@pytest.mark.parametrize("content", ["", "\n\n", "# only a comment\n", "   \n"])
def test_a_file_without_a_key_is_refused_at_the_start(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(SettingsError, match=f"LSTM_API_KEYS_FILE: {path} holds no key"):
        ApiKeys(path)


def test_a_file_that_cannot_be_read_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"LSTM_API_KEYS_FILE: .*missing: No such file"):
        ApiKeys(tmp_path / "missing")
    with pytest.raises(SettingsError, match=r"LSTM_API_KEYS_FILE: .*Is a directory"):
        ApiKeys(tmp_path)


def test_no_key_is_ever_logged(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    keys = ApiKeys(file)
    for key in (b"sesame", b"hunter2"):
        lets_in(keys, b"Bearer " + key)
    file.write_text("brand-new-key\n")
    lets_in(keys, b"Bearer brand-new-key")
    file.unlink()
    lets_in(keys, b"Bearer brand-new-key")
    assert len(caplog.records) == 2
    for secret in ("sesame", "open-up", "hunter2", "brand-new-key"):
        assert secret not in caplog.text
        assert secret not in repr(vars(keys))


def shortest_s(keys: ApiKeys, *asked: str) -> list[float]:
    """The shortest time that each key took of many, tried in turns."""
    shortest = [math.inf] * len(asked)
    for _ in range(300):
        for place, key in enumerate(asked):
            start = perf_counter()
            lets_in(keys, f"Bearer {key}".encode())
            shortest[place] = min(shortest[place], perf_counter() - start)
    return shortest


@pytest.mark.alone
def test_a_key_that_is_nearly_right_takes_as_long_as_one_that_is_not_right_at_all(tmp_path: Path) -> None:
    key = "k" * 4000
    (tmp_path / "keys").write_text(f"{key}\n")
    keys = ApiKeys(tmp_path / "keys")
    near_s, far_s = shortest_s(keys, f"{key[:-1]}x", f"x{key[1:]}")
    assert 0.8 < near_s / far_s < 1.25


@pytest.mark.alone
def test_the_first_and_the_last_key_take_equally_long(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("".join(f"key-{number}\n" for number in range(1000)))
    keys = ApiKeys(tmp_path / "keys")
    times_s = shortest_s(keys, "key-0", "key-999", "key-1000")
    assert max(times_s) < 1.25 * min(times_s)
