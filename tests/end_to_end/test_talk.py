"""The page of a model of text and images, in a real browser and for programs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourm.data.document_form import DocumentForm
from fourm.data.interleaved_configs import ChatConfig
from fourm.generate.interleaved import RowWriting
from fourm.generate.interleaved_job import Asked, prompt
from tests.end_to_end.test_serve import CHROMIUM, OPTIONS, says
from tests.rows import bundle, tokenizer

__all__ = ["bundle", "tokenizer"]

pytestmark = pytest.mark.slow
if importlib.util.find_spec("gradio") is None:
    pytest.skip("gradio is not installed: pip install 'fourm[serve]'", allow_module_level=True)


@pytest.fixture(scope="module")
def conversing(bundle: Any) -> Any:
    form = DocumentForm("[SOS]", "[IMG]", "[/IMG]", chat=ChatConfig(user="a ", assistant=" is ", end="[EOS]"))
    return SimpleNamespace(**{**vars(bundle), "documents": form})


@pytest.fixture(scope="module")
def address(conversing: Any) -> Iterator[str]:
    import socket

    from fourm.serve.server import running

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with running(conversing, title="toy", port=port) as url:
        yield url


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def send(page: Any) -> None:
    page.evaluate("document.querySelector('#status [role=status]').innerText = ''")
    page.click("#generate")
    says(page, "Done in")


def test_images_are_asked_about_and_painted_in_a_browser(address: str, photo: Path) -> None:
    tool = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    elsewhere: list[str] = []
    mistakes: list[str] = []
    with tool.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
        page.set_default_timeout(60_000)
        own = (address, "data:", "blob:")
        page.on("request", lambda r: elsewhere.append(r.url) if not r.url.startswith(own) else None)
        page.on("pageerror", lambda error: mistakes.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#generate")

        page.set_input_files("#images input[type=file]", [photo, photo])
        page.wait_for_function("document.querySelectorAll('#images img').length == 2")
        page.locator("#text textarea").fill("<b>how</b> many ${1+1} {{value}} ?")
        send(page)
        assert page.locator("#talk .user img").count() == 2
        assert "<b>how</b> many ${1+1} {{value}} ?" in page.locator("#talk .user").inner_text()
        assert page.locator("#talk .model").count() == 1
        page.wait_for_function("document.querySelectorAll('#images img').length == 0")  # they have been said

        page.get_by_label("Paint", exact=True).click()
        page.locator("#text textarea").fill("a red chair")
        page.get_by_label("Samples (1 to 8)").fill("2")
        send(page)
        assert page.locator("#talk .model img").count() == 2
        assert "painted_1.png" in page.locator("#files").inner_text().replace("\n", "")

        page.wait_for_function("document.querySelector('#text textarea').value == ''")  # what was said is cleared
        page.locator("#text textarea").fill("a red chair and a sofa")
        page.locator("#subjects button").first.click()
        page.locator("#subject-1 textarea").fill("a red chair")
        page.locator("#place-1 textarea").fill("0.1, 0.2, 0.5, 0.9")
        page.set_input_files("#looks-1 input[type=file]", photo)
        page.wait_for_selector("#looks-1 img")
        send(page)
        assert page.locator("#talk .user").last.locator("img").count() == 2  # the drawn place, and the looks
        page.wait_for_function("document.querySelector('#subject-1 textarea').value == ''")

        page.set_input_files("#images input[type=file]", [photo])
        page.wait_for_function("document.querySelectorAll('#images img').length == 1")
        page.get_by_label("Paint anew", exact=True).click()
        send(page)
        assert page.locator("#talk .model").last.locator("img").count() == 2

        page.click("#new")
        says(page, "A new conversation.")
        assert page.locator("#talk .model").count() == 0
        page.click("#generate")
        page.get_by_text("nothing is asked: write something").wait_for()
        browser.close()
    assert elsewhere == []
    assert mistakes == []


def test_a_program_goes_on_with_its_own_conversation(
    address: str, conversing: Any, photo: Path, tmp_path: Path
) -> None:
    from gradio_client import Client, handle_file

    first, second = (Client(address, verbose=False, analytics_enabled=False) for _ in range(2))
    image = [{"image": handle_file(photo), "caption": None}]
    options = {"temperature": 1, "max_tokens": 6, "api_name": "/ask"}

    _, _, (said,), _ = first.predict(images=image, text="how many ?", seed=1, **options)
    _, _, (again,), _ = first.predict(text="a chair", seed=2, **options)
    _, _, (alone,), _ = second.predict(text="a chair", seed=2, **options)

    def answer(seed: int, question: str, *turns: tuple[str, str], images: tuple[Path, ...] = ()) -> str:
        asked = Asked(question=question, turns=turns, images=images)
        writing = RowWriting(1.0, max_tokens=6)
        return prompt(conversing, asked, None, num_samples=1, seed=seed, writing=writing)[0]

    assert said == answer(1, "how many ?", images=(photo,))
    assert again == answer(2, "a chair", ("how many ?", said), images=(photo,))
    assert alone == answer(2, "a chair")
    _, _, answers, files = second.predict(text="a red chair", kind="paint", samples=2, api_name="/ask")
    assert answers == []
    assert [Path(file).name for file in files] == ["answers.zip", "painted_0.png", "painted_1.png"]
