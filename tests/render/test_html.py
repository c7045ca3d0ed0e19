"""The page of a plan: whole, of valid nesting, fetching nothing, and alive in a browser where there is one."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from bench.random_graph import RandomGraph
from rldsl.compiler.pipeline import Options, compile_file
from rldsl.render.blocks import parts_of
from rldsl.render.html import page_of
from rldsl.render.layout import HEIGHT, laid_out, path
from rldsl.render.nodes import edges_of, nodes_of
from tests.render.loops import collecting, talking
from tests.render.test_timeline import split

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
OFFLINE = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
VOID = {"meta", "br"}
MADE = {"collecting": collecting, "talking": talking}


class Tags(HTMLParser):
    """Complains of tags that are not closed in order; collects attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *a) for a in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(params=["ppo", *MADE])
def shown(request, plan):
    return split(plan) if request.param == "ppo" else MADE[request.param]()


def pages_in(text):
    return json.loads(re.search(r'id="pages">(.*?)</script>', text, re.DOTALL)[1])


def test_it_is_one_page(shown):
    text = page_of(shown)
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert tags.open == []
    assert [a for a in tags.attributes if a[1] in ("src", "href", "action", "srcset")] == []
    assert re.findall(r"https?:|url\(|@import|\bfetch\(|XMLHttp", text) == []
    assert "default-src 'none'" in text
    assert text == page_of(shown)


def test_all_is_on_it(shown):
    text = page_of(shown)
    pages = pages_in(text)
    for node in nodes_of(shown):
        assert f'data-id="{node.id}"' in text
        assert pages[node.label][0]["title"] == node.label
    for field in {f.name for f in shown.fields}:
        assert field in text
    for what in shown.dropped:
        assert what.why.replace("`", "") in re.sub(r"</?code>", "", text)
    asked = set(re.findall(r'data-name="([^"]*)"', text))
    assert {name for name in asked if name not in pages} <= {"move rows"} | {
        n for n in asked if n.startswith(("weights of", "save"))
    }


@pytest.mark.parametrize("unrolled", [False, True])
def test_boxes_do_not_touch_and_lines_pass_between_them(shown, unrolled):
    edges = edges_of(shown, unrolled=unrolled)
    picture = laid_out(parts_of(shown, unrolled=unrolled), edges)
    for row in picture.rows:
        for left, right in pairwise(row):
            assert left.x + left.width < right.x
    for above, below in pairwise(picture.rows):
        assert above[0].y + HEIGHT < below[0].y
    for spot in picture.spots.values():
        assert spot.x >= 0 and spot.x + spot.width <= picture.width
    for edge in edges:
        for x, y in re.findall(r" ([\d.]+) ([\d.]+)(?= C|$)", path(edge, picture)):
            inside = [
                s for s in picture.spots.values() if s.x < float(x) < s.x + s.width and s.y < float(y) < s.y + HEIGHT
            ]
            assert edge.again or inside == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_in_a_browser(plan, tmp_path):
    """The panel shows the whole plan; pointing at a node explains it and dims what is apart from it."""
    act = """<script>
      document.body.dataset.before = panel.textContent;
      const at = document.querySelector('.node[data-name=reward]');
      at.dispatchEvent(new Event('mouseenter'));
      document.body.dataset.on = nodes.filter(n => n.classList.contains('on')).map(n => n.dataset.id).join(' ');
      at.dispatchEvent(new Event('mouseleave'));
      document.body.dataset.pointed = panel.textContent;
      document.querySelector('td[data-name=tokens]').click();
      document.body.dataset.clicked = panel.textContent;
    </script></body>"""
    file = tmp_path / "page.html"
    file.write_text(page_of(split(plan)).replace("</body>", act))
    done = subprocess.run(
        [CHROMIUM, *QUIET, *OFFLINE, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    tags = Tags()
    tags.feed(done.stdout)
    seen = {name: value for tag, name, value in tags.attributes if tag == "body"}
    assert seen["data-before"].startswith("ppowhat the compiler decided")
    assert seen["data-on"] == "load rollout reward advantage update_actor update_critic"
    assert seen["data-pointed"].startswith("rewardnode, REWARD, COMPUTE")
    assert seen["data-clicked"].startswith("tokensfield, i64[sample, token]")


def test_a_page_grows_with_its_graph(tmp_path):
    """Not faster: what a node's explanation tells of others is bounded, and so is what a line costs."""
    sizes = []
    for count in (100, 400):
        file = tmp_path / f"{count}.rl"
        file.write_text(RandomGraph(count).text)
        plan = compile_file(file, Options()).plan
        sizes.append(len(page_of(plan)) / len(plan.depths))
    assert sizes[1] < 1.25 * sizes[0]


def test_waits_and_lanes_are_on_it(plan):
    text = page_of(split(plan))
    assert "ranks 2 to 3 wait in op 3, reshard, for ranks 0 to 1, which run rollout" in text
    assert text.count(">ranks 0 to 1</text>") == 1
    assert page_of(plan).count("every rank</h3>") == 1
