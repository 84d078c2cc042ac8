"""The status page in a real browser: what it shows, that it refreshes, and that it owns up when the node is gone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, missing
from running import Nodes, until

from laila import constant
from laila.macros.defaults import DefaultPolicy


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A window, closed when the test ends. In CI there must be one."""
    if (reason := missing()) is not None:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    found = Browser(tmp_path)
    yield found
    found.close()


def colour(browser: Browser, selector: str, name: str = "backgroundColor") -> str:
    found: str = browser.run(f"return getComputedStyle(document.querySelector('{selector}')).{name}")
    return found


def test_page_shows_the_node_and_follows_it(nodes: Nodes, browser: Browser, tmp_path: Path) -> None:
    """Name, pools, links with direction and last contact; a change shows within seconds; a dead node is called dead."""
    other = nodes.node("n2")
    evil = "<b>bold</b>"
    node = nodes.node(
        "n1", "--pools", f"kept=sqlite:{nodes.folder / 'kept.sqlite'}", "--peers", other.address
    )
    node.start().ready()
    browser.open(f"http://127.0.0.1:{node.status_port}/")
    until(lambda: browser.text("#state") == "ready", "the state")
    assert browser.text("h1") == "n1"
    assert browser.run("return document.title") == "n1 · laila"
    assert node.address in browser.text("#facts")
    assert browser.text("#links") == "No peer yet."
    assert other.address in browser.text("#dialers")
    good = colour(browser, "#dot")

    other.start().ready()
    until(lambda: "n2" in browser.text("#links"), "the link, without a reload")
    assert "→ dialed" in browser.text("#links")
    until(
        lambda: browser.run("return document.getElementById('dialing').style.display") == "none", "no dialing"
    )

    with DefaultPolicy(name=evil) as client:
        peer = client.peers[client.communication.add_tcpip_peer("127.0.0.1", node.port, nodes.secret)]
        peer.memorize(entries=[constant(n) for n in range(1234)], pool_nickname="kept").wait(20)
        until(lambda: evil in browser.text("#links"), "the client's own name, as text")
        assert "← accepted" in browser.text("#links")
        until(lambda: "1,234" in browser.text("#pools"), "the entries")
        assert browser.run("return document.querySelectorAll('#links b').length") == 0
        light, ground = browser.screenshot(tmp_path / "light.png"), colour(browser, "body")
        browser.dark(True)
        until(lambda: colour(browser, "body") != ground, "the dark page")
        dark = browser.screenshot(tmp_path / "dark.png")
        assert light.read_bytes() != dark.read_bytes()
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        browser.dark(False)
    assert browser.errors() == []

    other.kill()
    until(lambda: "lost" in browser.text("#links"), "the loss")
    node.kill()
    until(lambda: browser.text("#state") == "no answer", "the staleness")
    assert "This node does not answer; what you see is " in browser.text("#stale")
    assert colour(browser, "#dot") != good
    browser.screenshot(tmp_path / "stale.png")
    node.start().ready()
    until(lambda: browser.text("#state") == "ready", "the node again")
    assert browser.text("#stale") == ""
