import pytest

from s2lite.model.resources import ListRequest


@pytest.mark.parametrize(
    ("requested", "limit"), [(None, 1000), (0, 1000), (1, 1), (1000, 1000), (1001, 1000)]
)
def test_a_page_has_at_most_what_was_asked_for_and_never_more_than_1000(
    requested: int | None, limit: int
) -> None:
    assert ListRequest(limit=requested).limit == limit


def test_a_listing_is_of_everything_unless_told_otherwise() -> None:
    assert ListRequest() == ListRequest(prefix="", start_after="", limit=1000)
