"""A browser for the page, which must stay calm: no complaint, no dialog, and nothing asked of a network."""

import pytest

from qkv.lens.page import write_page


@pytest.fixture(scope="session")
def contexts(browser):
    """Contexts by their options: making one takes longer than opening a page in it."""
    made = {}

    def context(**options):
        found = made.get(repr(options))
        if found is None:
            found = made[repr(options)] = browser.new_context(**options)
            found.set_default_timeout(10_000)
        return found

    return context


@pytest.fixture
def visit(contexts, tmp_path):
    """Open the page of some views; afterwards nothing went wrong in it and it asked for nothing."""
    complaints, asked, pages = [], [], []

    def open_page(views, title="A model", budget=2_800_000, **options):
        path = tmp_path / "page.html"
        write_page(path, views, title=title, subtitle=title or "", budget=budget)
        page = contexts(**{"viewport": {"width": 1280, "height": 900}, "locale": "en-US", **options}).new_page()
        pages.append(page)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-drawn]")
        return page

    yield open_page
    for page in pages:
        page.close()
    assert complaints == []
    assert [address for address in asked if not address.startswith(("file:", "data:,", "blob:"))] == []
