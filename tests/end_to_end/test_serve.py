"""`fourm serve`: a real server, a real browser, and many clients of which some are broken."""

from __future__ import annotations

import importlib.util
import io
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fourm import catalog
from fourm.data.shards import shard_path
from fourm.tokenizers.units import to_natural
from tests.end_to_end.conftest import run

pytestmark = pytest.mark.slow
if importlib.util.find_spec("gradio") is None:
    pytest.skip("gradio is not installed: pip install 'fourm[serve]'", allow_module_level=True)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
CLIENTS, REQUESTS = 20, 2


@pytest.fixture(scope="module")
def served(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, a photograph and an example, in one folder."""
    from tests.end_to_end.conftest import RECIPE

    root = tmp_path_factory.mktemp("served")
    (root / "tiny.yaml").write_text(
        RECIPE.replace("???", str(made)).replace("${variables.root}/model", str(root / "model"))
    )
    assert run("pretrain", root / "tiny.yaml") == 0
    with tarfile.open(shard_path(made / "rooms" / "test", "rgb", 0)) as tar:
        for name in ("000000.png", "000001.png"):
            tar.extract(name, root, filter="data")
    (root / "examples" / "bedroom").mkdir(parents=True)
    shutil.copy(root / "000001.png", root / "examples" / "bedroom" / "rgb.png")
    metres = np.random.default_rng(0).integers(0, 65536, (64, 64)).astype(np.uint16)
    Image.fromarray(metres).save(root / "depth.png")
    for size in (64, 32):
        left = np.where(np.arange(size) < size // 2, 255, 0).astype(np.uint8)
        Image.fromarray(left[None].repeat(size, 0)).save(root / f"left{size}.png")
    (root / "examples" / "bedroom" / "caption.txt").write_text("a red sofa")
    return root


@contextmanager
def serving(root: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The server as its own process, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "fourm", "serve", "model", "--port", str(port), "--device", "cpu", *options]
    with (root / "server.log").open("w") as log:
        process = subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert f"http://127.0.0.1:{port}" in line, (root / "server.log").read_text()
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@pytest.fixture(scope="module")
def server(served: Path) -> Iterator[str]:
    with serving(served, "--examples", "examples", "--max-queue", "60", "--max-upload-mb", "1") as (address, _):
        yield address


def visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def status(address: str, path: str, data: bytes | None = None) -> int:
    """HTTP status of a request."""
    request = urllib.request.Request(address + path, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, ConnectionError):
        if data is None or len(data) < 2**20:
            raise
        return 413  # it hung up while the rest was still coming


@pytest.fixture
def browser_page(server: str) -> Iterator[Any]:
    """The page in Chromium; the test fails if it asks another host, or a script on it fails."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    elsewhere: list[str] = []
    mistakes: list[str] = []
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
        page.set_default_timeout(60_000)
        page.on(
            "request", lambda r: elsewhere.append(r.url) if not r.url.startswith((server, "data:", "blob:")) else None
        )
        page.on("pageerror", lambda error: mistakes.append(str(error)))
        page.goto(server)
        page.wait_for_selector("#generate")
        yield page
        browser.close()
    assert elsewhere == []
    assert mistakes == []


def choose(page: Any, *targets: str) -> None:
    """Set the targets."""
    field = page.get_by_label("Generate, in this order")
    field.click()
    field.press("Backspace")  # what was chosen at the start
    for target in targets:
        field.fill(target)
        field.press("Enter")
    field.press("Escape")


def generate(page: Any) -> None:
    page.evaluate("document.querySelector('#status [role=status]').innerText = ''")  # no longer that of the last time
    page.click("#generate")
    says(page, "Done in")


def says(page: Any, text: str) -> None:
    """Wait for the line of status."""
    page.wait_for_function("text => document.querySelector('#status').innerText.includes(text)", arg=text)


def width(page: Any, selector: str) -> int:
    """Pixels of an image that has come."""
    page.wait_for_function("s => (document.querySelector(s) || {}).naturalWidth > 0", arg=selector)
    return int(page.locator(selector).first.evaluate("image => image.naturalWidth"))


def test_a_photograph_is_uploaded_and_its_answers_are_seen(browser_page: Any, served: Path) -> None:
    page = browser_page
    page.set_input_files("#given-rgb input[type=file]", served / "000000.png")
    choose(page, "depth", "caption")
    generate(page)
    assert page.locator("#answers .caption-label").all_inner_texts() == ["depth", "caption"]
    assert width(page, "#answers .gallery-item:nth-child(1) img") >= 192
    assert width(page, "#answers .gallery-item:nth-child(2) img") >= 192
    assert width(page, "#sheet img") > 3 * 190
    assert page.locator("#texts textarea").input_value().startswith("caption: ")
    files = page.locator("#files").inner_text().replace("\n", "")
    assert all(name in files for name in ("answers.zip", "depth.png", "caption.txt", "grid.png", "plan.yaml"))


def test_a_text_alone_is_enough_and_several_answers_are_numbered(browser_page: Any) -> None:
    page = browser_page
    page.locator("#given-caption textarea").fill("a red sofa")
    page.get_by_label("Samples (1 to 8)").fill("2")
    generate(page)
    assert page.locator("#answers .caption-label").all_inner_texts() == ["depth 0", "depth 1"]


def sheet(page: Any) -> Image.Image:
    """The picture of all, as it is offered."""
    address = page.locator("#sheet img").first.get_attribute("src")
    return Image.open(io.BytesIO(page.request.get(address).body())).convert("RGB")


def stroke(page: Any, place: Any) -> None:
    """Draw one stroke on the canvas of a tab."""
    place.locator("button[aria-label=Brush]:visible").click()
    canvas = place.locator("canvas:visible").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.4 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.6 * box["height"], steps=8)
    page.mouse.up()
    place.locator("button[aria-label=Undo]:visible:not([disabled])").wait_for()


def test_an_image_that_is_painted_over_is_given_in_part(browser_page: Any, served: Path) -> None:
    page = browser_page
    given = page.locator("#given-rgb")
    given.get_by_role("tab", name="Paint over").click()
    tab = given.locator("[role=tabpanel]", has_text="paint over what is to be made anew")
    tab.locator("canvas:visible").first.wait_for()  # an upload before that finds no canvas
    page.wait_for_timeout(1000)
    tab.locator("input[type=file]").first.set_input_files(served / "000000.png")
    stroke(page, tab)
    generate(page)
    assert width(page, "#sheet img") > 2 * 190
    blank = to_natural(torch.zeros(1, 3, 1, 1), catalog.get("rgb@64")).flatten() * 255
    away = np.abs(np.asarray(sheet(page)).astype(float) - blank.numpy()).max(-1)
    assert (away <= 2).mean() > 0.005  # what was painted over is blank


def test_what_is_drawn_is_given(browser_page: Any) -> None:
    page = browser_page
    page.locator("#given-rgb").get_by_role("tab", name="Draw").click()
    stroke(page, page.locator("#given-rgb"))
    generate(page)
    assert width(page, "#sheet img") > 2 * 190


def test_a_bad_upload_is_answered_with_one_message_and_the_page_goes_on(browser_page: Any, served: Path) -> None:
    page = browser_page
    bad = {"name": "photo.png", "mimeType": "image/png", "buffer": b"this is a letter"}
    page.set_input_files("#given-rgb input[type=file]", bad)
    page.click("#generate")
    message = page.get_by_text("given rgb: this is not an image, or it is damaged; expected PNG, JPEG")
    message.wait_for()
    assert message.count() == 1
    assert "Traceback" not in page.content()
    page.reload()
    page.locator("#given-caption textarea").fill("a red sofa")
    generate(page)


def give_depth(page: Any, served: Path, mask: str) -> None:
    """Upload a depth map and a mask for it."""
    given = page.locator("#given-depth")
    given.get_by_role("button", name="depth").first.click()
    given.locator("input[type=file]").first.set_input_files(served / "depth.png")
    given.get_by_role("tab", name="Mask").click()
    page.set_input_files(
        "#given-depth [role=tabpanel]:has-text('white where it counts') input[type=file]", served / mask
    )
    width(page, "#given-depth img")


def test_the_rest_of_an_image_is_painted_where_a_mask_is_black(browser_page: Any, served: Path) -> None:
    page = browser_page
    give_depth(page, served, "left64.png")
    choose(page, "depth")
    generate(page)
    assert page.locator("#answers .caption-label").all_inner_texts() == ["depth"]
    assert width(page, "#sheet img") > 2 * 190


def test_a_mask_that_does_not_fit_is_answered_with_a_message(browser_page: Any, served: Path) -> None:
    page = browser_page
    give_depth(page, served, "left32.png")
    choose(page, "depth")
    page.click("#generate")
    page.get_by_text("known depth: a mask of 32 x 32 pixels for a value of 64 x 64; expected the same size").wait_for()


def test_one_answer_from_all_samples_is_shown_beside_where_they_disagree(browser_page: Any) -> None:
    page = browser_page
    page.locator("#given-caption textarea").fill("a red sofa")
    page.get_by_label("Samples (1 to 8)").fill("3")
    page.get_by_label("One answer from all samples").check()
    generate(page)
    assert page.locator("#answers .caption-label").all_inner_texts() == ["depth", "depth: unsure"]
    assert width(page, "#answers .gallery-item:nth-child(2) img") >= 192
    assert "depth_uncertainty.npy" in page.locator("#files").inner_text().replace("\n", "")


def test_an_example_fills_what_is_given(browser_page: Any) -> None:
    page = browser_page
    page.get_by_label("Examples").click()
    page.get_by_role("option", name="bedroom").click()
    assert width(page, "#given-rgb img") == 32
    assert page.locator("#given-caption textarea").input_value() == "a red sofa"
    generate(page)


def test_impatience_does_no_harm(browser_page: Any, server: str) -> None:
    page = browser_page
    page.locator("#given-caption textarea").fill("a red sofa")
    page.get_by_label("Samples (1 to 8)").fill("8")
    for _ in range(5):
        page.locator("#generate").dispatch_event("click")
    page.click("#stop")
    says(page, "Stopped.")
    page.wait_for_timeout(1000)
    generate(page)
    other = page.context.new_page()
    other.goto(server)
    other.wait_for_selector("#generate")
    other.locator("#given-caption textarea").fill("a lamp")
    other.click("#generate")
    other.close()  # before its answer comes
    generate(page)


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/file=/etc/passwd", "/gradio_api/file=model/config.json", "/gradio_api/file=/proc/self/environ",
     "/gradio_api/file=http://127.0.0.1:1/", "/gradio_api/proxy=http://127.0.0.1:1/", "/gradio_api/file=.."],
)  # fmt: skip
def test_files_of_the_server_are_not_read(server: str, path: str) -> None:
    assert status(server, path) in (403, 404)


MALFORMED = [
    ("/gradio_api/queue/join", b"{"),
    ("/gradio_api/queue/join", b"[]"),
    ("/gradio_api/queue/join", json.dumps({"data": [{}] * 3, "fn_index": 10**9, "session_hash": "x"}).encode()),
    ("/gradio_api/call/generate", json.dumps({"data": ["x"] * 50}).encode()),
    ("/gradio_api/call/generate", b'{"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]}'),
    ("/gradio_api/upload", b"no form"),
    ("/gradio_api/component_server", b'{"data": 1, "fn_name": "__init__", "component_id": 3, "session_hash": "x"}'),
    ("/gradio_api/upload", bytes(3 * 2**20)),
]  # fmt: skip


def test_many_clients_of_which_some_are_broken_get_the_answers_of_the_command(
    server: str, served: Path, tmp_path: Path
) -> None:
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    photographs = [served / "000000.png", served / "000001.png"]
    expected = {
        (photo.name, seed): answer_of_the_command(served, photo, seed, tmp_path / f"{photo.stem}_{seed}")
        for photo in photographs
        for seed in range(3)
    }
    draws = random.Random(0)
    orders = [(draws.choice(photographs), draws.randrange(3)) for _ in range(CLIENTS * REQUESTS)]
    broken = set(draws.sample(range(len(orders)), len(orders) // 10))
    assert len(broken) == 4
    wrong: list[str] = []
    right: list[int] = []

    def ask(client: Any, number: int) -> None:
        photo, seed = orders[number]
        if number in broken:
            path, data = MALFORMED[number % len(MALFORMED)]
            if status(server, path, data) >= 500:
                wrong.append(f"{path} broke")
            try:
                client.predict(rgb=handle_file(served / "tiny.yaml"), to=["depth"], api_name="/generate")
                wrong.append("a recipe passed for a photograph")
            except AppError as error:
                if "not an image" not in str(error):
                    wrong.append(f"unclear: {error}")
            return
        *_, files = client.predict(rgb=handle_file(photo), to=["depth", "caption"], seed=seed, api_name="/generate")
        found = {Path(file).name: Path(file).read_bytes() for file in files if not file.endswith(".zip")}
        (right.append(number) if found == expected[photo.name, seed] else wrong.append(f"{number}: another answer"))

    def work(number: int) -> None:
        try:
            client = Client(server, verbose=False, analytics_enabled=False, download_files=str(tmp_path / f"c{number}"))
            for n in range(number * REQUESTS, (number + 1) * REQUESTS):
                ask(client, n)
        except Exception as error:
            wrong.append(f"client {number}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert wrong == []
    assert len(right) == len(orders) - len(broken)
    assert status(server, "/") == 200
    assert "a request failed" not in (served / "server.log").read_text()


def test_masks_and_ensembles_give_the_answers_of_the_command(server: str, served: Path, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    client = Client(server, verbose=False, analytics_enabled=False, download_files=str(tmp_path / "page"))
    *_, files = client.predict(
        depth=handle_file(served / "depth.png"), depth_known=handle_file(served / "left64.png"), caption="a bed",
        caption_known=True, to=["depth", "caption"], samples=3, ensemble=True, api_name="/generate",
    )  # fmt: skip
    words = ["--given", f"depth={served / 'depth.png'}", "--known", f"depth={served / 'left64.png'}", "--given",
             "caption=a bed", "--known", "caption=some", "--to", "depth,caption", "--num-samples", 3, "--ensemble",
             "--out", tmp_path / "out", "--device", "cpu"]  # fmt: skip
    assert run("generate", served / "model", *words) == 0
    found = {Path(file).name: Path(file).read_bytes() for file in files if not file.endswith(".zip")}
    assert found == {path.name: path.read_bytes() for path in visible(tmp_path / "out")}
    assert "depth_uncertainty.npy" in found


def answer_of_the_command(served: Path, photo: Path, seed: int, out: Path) -> dict[str, bytes]:
    words = ["--given", f"rgb={photo}", "--to", "depth,caption", "--seed", seed, "--out", out, "--device", "cpu"]
    assert run("generate", served / "model", *words) == 0
    return {path.name: path.read_bytes() for path in visible(out)}


def test_a_path_in_a_request_is_not_opened(server: str, served: Path, tmp_path: Path) -> None:
    names = ["rgb", "rgb_drawing", "rgb_painting", "depth", "caption", "rgb_known", "depth_known", "caption_known",
             "to", "guidance", "samples", "seed", "ensemble"]  # fmt: skip

    def ask(path: str, name: str) -> str:
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        values = {"to": ["depth"], "samples": 1, "seed": 0, name: file}
        body = json.dumps({"data": [values.get(name) for name in names]}).encode()
        request = urllib.request.Request(
            f"{server}/gradio_api/call/generate", body, {"content-type": "application/json"}
        )
        event = json.loads(urllib.request.urlopen(request, timeout=30).read())["event_id"]
        return urllib.request.urlopen(f"{server}/gradio_api/call/generate/{event}", timeout=60).read().decode()

    from gradio_client import Client, handle_file

    uploaded = Client(server, verbose=False, analytics_enabled=False, download_files=str(tmp_path))
    sent = uploaded.predict(rgb=handle_file(served / "000000.png"), to=["depth"], api_name="/generate")
    assert sent[-1]
    for path in (served / "000000.png", Path("/etc/passwd"), served / "examples" / ".." / "000000.png"):
        for name in ("rgb", "depth", "rgb_known", "depth_known"):
            answer = ask(str(path), name)
            assert "event: error" in answer
            assert "grid.png" not in answer
    for name in names:
        for address in ("http://127.0.0.1:1/photo.png", "https://huggingface.co/photo.png"):
            answer = ask(address, name)
            assert "event: error" in answer
            assert "this page fetches nothing from other hosts" in answer


def test_what_a_broken_client_sends_is_never_answered_with_a_failure_of_the_server(server: str) -> None:
    answers = {number: status(server, path, data) for number, (path, data) in enumerate(MALFORMED)}
    assert {number: code for number, code in answers.items() if code >= 500} == {}
    assert answers[len(MALFORMED) - 1] == 413


def test_a_taken_port_is_named_and_a_stopped_server_leaves_nothing(
    served: Path, fourm: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with serving(served) as (address, process):
        assert len(list(tmp_path.glob("fourm-serve-*"))) == 1
        outcome = fourm("serve", served / "model", "--port", address.rpartition(":")[2], "--device", "cpu")
        assert outcome.status == 1
        assert "choose another --port" in outcome.err
    assert process.returncode == 143
    assert list(tmp_path.glob("fourm-serve-*")) == []
