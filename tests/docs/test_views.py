"""docs/views.md and its pictures are what the command line prints."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def views() -> ModuleType:
    """docs/make_views.py."""
    spec = importlib.util.spec_from_file_location("make_views", DOCS / "make_views.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_views"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def written(views: ModuleType, request: pytest.FixtureRequest) -> dict[str, str]:
    """What the script makes now."""
    if request.config.getoption("--update-goldens"):
        views.write()
    return views.written()


def words(svg: str) -> list[str]:
    """The texts of a picture, whatever version of rich drew it."""
    return [t for t in re.findall(r">([^<>]+)</text>", svg) if t.strip()]


def test_the_page_is_true(written: dict[str, str]) -> None:
    assert written["views.md"] == (DOCS / "views.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["graph", "schedule", "explain", "diff"])
def test_the_pictures_are_true(written: dict[str, str], name: str) -> None:
    kept = (DOCS / "images" / f"{name}.svg").read_text(encoding="utf-8")
    assert words(kept) and words(written[f"images/{name}.svg"]) == words(kept)
    assert "http" not in re.sub(r"http://www\.w3\.org/\S+|https://www\.textualize\.io", "", kept)


def test_every_picture_is_on_the_page(written: dict[str, str]) -> None:
    assert {f"images/{n}" for n in re.findall(r"images/([\w.]+\.svg)", written["views.md"])} == {
        n for n in written if n.endswith(".svg")
    }
