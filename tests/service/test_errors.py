"""The error tree: the picture in its docstring is the code."""

import re

from service import errors
from service.errors import ServiceError


def test_the_picture_shows_every_error_with_its_status() -> None:
    drawn = dict(re.findall(r"[├└]── (\w+) +(\d{3})", errors.__doc__ or ""))
    assert drawn == {error.__name__: str(error.status) for error in ServiceError.__subclasses__()}


def test_statuses_and_reasons_differ() -> None:
    tree = ServiceError.__subclasses__()
    assert len({error.status for error in tree}) == len({error.reason for error in tree}) == len(tree)


def test_what_can_be_tried_again_says_when() -> None:
    again = {error.status for error in ServiceError.__subclasses__() if (b"retry-after", b"1") in error.headers}
    assert again == {429, 503}
