"""Which versions a policy chooses."""

from hypothesis import given
from hypothesis import strategies as st

from service.versions import choose_versions

version_numbers = st.lists(st.integers(1, 50), unique=True)


@given(version_numbers)
def test_the_policy_all_serves_every_version(present: list[int]) -> None:
    wanted, at_most = choose_versions("all", present)
    assert wanted == sorted(present, reverse=True)
    assert at_most == len(present)


@given(version_numbers, st.integers(1, 9999))
def test_the_policy_latest_tries_the_newest_first_and_has_the_older_ones_to_fall_back_on(
    present: list[int], count: int
) -> None:
    wanted, at_most = choose_versions(f"latest:{count}", present)
    assert wanted == sorted(present, reverse=True)
    assert at_most == count
    assert choose_versions("latest", present) == (wanted, 1)


@given(version_numbers, st.lists(st.integers(1, 50), min_size=1))
def test_a_list_serves_those_of_it_that_there_are(present: list[int], listed: list[int]) -> None:
    wanted, at_most = choose_versions(",".join(map(str, listed)), present)
    assert wanted == sorted(set(present) & set(listed), reverse=True)
    assert at_most >= len(wanted)
