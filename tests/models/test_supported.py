"""docs/supported.md says what the tables say."""

from tests.models.supported import PAGE, page


def test_the_page_of_what_opens_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.models.supported"
