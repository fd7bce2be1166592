"""One generation at a time, told step by step; it ends when nobody listens, and nothing ends the worker."""

from __future__ import annotations

import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourm.errors import FourmError
from fourm.generate.job import run
from fourm.serve.request import Request
from fourm.serve.worker import Answer, Busy, Finished, Worker, read_value
from tests.unit.generate.toy import ToyBundle
from tests.unit.serve.conftest import encoded


def request(photo: bytes, *targets: str, **options: Any) -> Request:
    return Request({"rgb": photo}, list(targets or ["depth"]), **options)


def visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def follow(worker: Worker, wanted: Request) -> list[Any]:
    return list(worker.follow(wanted))


def passes(bundle: ToyBundle) -> Any:
    """Counts passes through the decoder from now on."""
    count = [0]
    bundle.model.decoder.register_forward_pre_hook(lambda *_: count.__setitem__(0, count[0] + 1))
    return count


def test_each_target_is_told_in_order_and_all_of_them_last(worker: Worker, photo: bytes) -> None:
    news = follow(worker, request(photo, "depth", "caption", num_samples=2))
    answers = [item for item in news if isinstance(item, Answer)]
    assert [answer.name for answer in answers] == ["depth", "caption"]
    assert [len(answer.pictures) for answer in answers] == [2, 2]
    assert [len(answer.texts) for answer in answers] == [0, 2]
    assert isinstance(news[0], Busy)
    assert isinstance(news[-1], Finished)
    steps = [item.target for item in news if isinstance(item, Busy) and item.target]
    assert list(dict.fromkeys(steps)) == ["depth", "caption"]


def test_files_are_those_of_the_command(worker: Worker, bundle: ToyBundle, photo: bytes, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(photo)
    expected = run(
        bundle, given=[f"rgb={tmp_path / 'photo.png'}", "caption=a bed"], targets=["depth", "semseg", "det"],
        out=tmp_path / "out", num_samples=2, seed=5, device="cpu",
    )  # fmt: skip
    wanted = Request({"rgb": photo, "caption": "a bed"}, ["depth", "semseg", "det"], None, 2, 5)
    for news in worker.follow(wanted):
        if isinstance(news, Finished):
            packed, *files = news.files
            assert {path.name: path.read_bytes() for path in files} == {p.name: p.read_bytes() for p in expected}
            assert zipfile.ZipFile(packed).namelist() == [path.name for path in files]
            assert Image.open(news.sheet).width > 3 * 190
            return
    pytest.fail("the end was never told")


def last(worker: Worker, wanted: Request) -> dict[str, bytes]:
    """The contents of all files of an answer, and of the pictures that are shown of an ensemble."""
    for news in worker.follow(wanted):
        if isinstance(news, Finished):
            shown = {f"{name} {n}": path for name, paths in news.pictures.items() for n, path in enumerate(paths)}
            return {**{path.name: path.read_bytes() for path in news.files[1:]},
                    **{name: path.read_bytes() for name, path in shown.items()}}  # fmt: skip
    pytest.fail("the end was never told")


def test_part_of_a_photograph_and_some_of_the_boxes_are_given_as_by_the_command(
    worker: Worker, bundle: ToyBundle, photo: bytes, tmp_path: Path
) -> None:
    mask = encoded(np.where(np.arange(70) < 35, 255, 0).astype(np.uint8)[None].repeat(50, 0))
    (tmp_path / "photo.png").write_bytes(photo)
    (tmp_path / "mask.png").write_bytes(mask)
    boxes = '{"instances": [{"boxes": [0, 0, 0.5, 1], "class_name": "bed", "score": 1}]}'
    run(
        bundle, given=[f"rgb={tmp_path / 'photo.png'}", f"det={boxes}"], targets=["rgb", "det"], device="cpu",
        known=[f"rgb={tmp_path / 'mask.png'}", "det=some"], out=tmp_path / "out",
    )  # fmt: skip
    wanted = Request({"rgb": photo, "det": boxes}, ["rgb", "det"], known={"rgb": mask, "det": "some"})
    assert last(worker, wanted) == {path.name: path.read_bytes() for path in visible(tmp_path / "out")}


def test_an_ensemble_is_shown_with_where_it_is_unsure(
    worker: Worker, bundle: ToyBundle, photo: bytes, tmp_path: Path
) -> None:
    (tmp_path / "photo.png").write_bytes(photo)
    given = [f"rgb={tmp_path / 'photo.png'}"]
    run(
        bundle, given=given, targets=["depth", "semseg"], out=tmp_path / "out", num_samples=3, ensemble=True, seed=2,
        device="cpu",
    )  # fmt: skip
    found = last(worker, request(photo, "depth", "semseg", num_samples=3, seed=2, ensemble=True))
    names = ["depth 0", "depth: unsure 0", "semseg 0", "semseg: unsure 0"]
    assert [name for name in found if name.endswith(" 0")] == names
    shown = [found.pop(name) for name in names]
    assert all(picture.startswith(b"\x89PNG") for picture in shown)
    assert found == {path.name: path.read_bytes() for path in visible(tmp_path / "out")}


def test_a_mask_of_another_size_is_told(worker: Worker, photo: bytes) -> None:
    wanted = request(photo, "rgb", known={"rgb": encoded(np.zeros((9, 9), np.uint8))})
    with pytest.raises(FourmError, match="known rgb: a mask of 9 x 9 pixels for a value of 70 x 50"):
        follow(worker, wanted)


def test_a_guidance_of_ones_own_is_that_of_every_step(worker: Worker, photo: bytes) -> None:
    for news in worker.follow(request(photo, "depth", "rgb", guidance=1.5)):
        if isinstance(news, Finished):
            plan = next(path for path in news.files if path.name == "plan.yaml").read_text()
            assert plan.count("guidance: 1.5") == 2


def test_results_vanish_when_they_were_taken(worker: Worker, photo: bytes) -> None:
    follow(worker, request(photo))
    assert list(worker.folder.iterdir()) == []


@pytest.mark.parametrize("text", ["secrets.txt", "secrets.json", "./secrets.txt"])
def test_a_text_opens_no_file(bundle: ToyBundle, tmp_path: Path, monkeypatch: Any, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("secrets.txt", "secrets.json", "caption"):
        (tmp_path / name).write_text('"a red sofa"')
    assert read_value(bundle, "caption", text).pictures == [text]


def test_what_is_wrong_is_said_in_one_message_and_the_next_request_works(worker: Worker, photo: bytes) -> None:
    with pytest.raises(FourmError, match="given det: .*instances"):
        follow(worker, Request({"det": '{"boxes": []}'}, ["depth"]))
    assert isinstance(follow(worker, request(photo))[-1], Finished)


def test_a_mistake_of_the_server_is_logged_and_named_without_details(
    worker: Worker, photo: bytes, monkeypatch: Any, caplog: Any
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("/secret/path")

    with monkeypatch.context() as patch:
        patch.setattr("fourm.serve.worker.pack", fail)
        with pytest.raises(FourmError, match=r"could not do this \(RuntimeError\)") as caught:
            follow(worker, request(photo))
    assert "secret" not in str(caught.value)
    assert "/secret/path" in caplog.text
    assert isinstance(follow(worker, request(photo))[-1], Finished)


def test_nothing_is_generated_any_more_once_the_listener_is_gone(
    worker: Worker, bundle: ToyBundle, photo: bytes
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        reached.set()
        go_on.wait(10)

    hook = bundle.model.encoder.register_forward_pre_hook(wait)
    news = worker.follow(request(photo, "rgb", "caption", "depth"), beat=0.01)
    next(news)
    next(news)
    assert reached.wait(10)
    count = passes(bundle)
    news.close()
    go_on.set()
    hook.remove()
    assert isinstance(follow(worker, request(photo, "edges"))[-1], Finished)  # its turn comes when the other has ended
    assert count[0] <= 2  # the pass that had begun, and that of the second request
    time.sleep(0.05)
    assert list(worker.folder.iterdir()) == []


def test_a_listener_that_says_nothing_for_long_is_gone(
    worker: Worker, bundle: ToyBundle, photo: bytes, monkeypatch: Any
) -> None:
    monkeypatch.setattr("fourm.serve.one_by_one._PATIENCE", 0.2)
    silent = worker.follow(request(photo, "rgb"), beat=0.01)
    hook = bundle.model.encoder.register_forward_pre_hook(lambda *_: time.sleep(0.3))
    next(silent)
    next(silent)
    time.sleep(0.8)
    hook.remove()
    assert not worker.is_busy


def test_requests_at_the_same_time_do_not_mix(worker: Worker, photo: bytes) -> None:
    wanted = [request(photo, "caption", "det", seed=seed) for seed in range(4)]
    alone = [[n.texts for n in follow(worker, one) if isinstance(n, Answer)] for one in wanted]
    together: list[Any] = [None] * 4

    def one(number: int) -> None:
        together[number] = [n.texts for n in follow(worker, wanted[number]) if isinstance(n, Answer)]

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    assert len({str(texts) for texts in alone}) > 1


def test_one_is_generated_at_a_time_and_closing_one_leaves_the_others_whole(
    worker: Worker, bundle: ToyBundle, photo: bytes, monkeypatch: Any
) -> None:
    inside: list[int] = []
    most: list[int] = []
    reached, go_on = threading.Event(), threading.Event()
    generate_one = worker.generate

    def watched(wanted: Request, *rest: Any) -> None:
        inside.append(wanted.seed)
        most.append(len(inside))
        try:
            reached.set()
            assert go_on.wait(60)
            generate_one(wanted, *rest)
        finally:
            inside.remove(wanted.seed)

    alone = follow(worker, request(photo, "caption", seed=1))
    monkeypatch.setattr(worker, "generate", watched)
    closed = worker.follow(request(photo, "caption", seed=0), beat=0.01)
    next(closed)
    assert reached.wait(60)
    others = [worker.follow(request(photo, "caption", seed=seed), beat=0.01) for seed in (1, 2)]
    for other in others:
        next(other)
    time.sleep(0.5)  # both ask for their turn meanwhile
    assert inside == [0]
    closed.close()
    go_on.set()
    rest = [list(other) for other in others]
    assert [isinstance(news[-1], Finished) for news in rest] == [True, True]
    assert [n.texts for n in rest[0] if isinstance(n, Answer)] == [n.texts for n in alone if isinstance(n, Answer)]
    assert most == [1, 1, 1]
