from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from fourm.errors import ConfigError, MissingExtraError
from fourm.serve.server import running, serve
from tests.unit.generate.toy import ToyBundle


def test_without_gradio_the_command_that_installs_it_is_named(bundle: ToyBundle, monkeypatch: Any) -> None:
    for name in ("gradio", "gradio.themes"):
        monkeypatch.setitem(sys.modules, name, None)
    before = dict(os.environ)
    with pytest.raises(MissingExtraError, match=r"pip install 'fourm\[serve\]'"), running(bundle, title="toy"):
        pass
    assert dict(os.environ) == before


def test_options_that_no_tokenizer_has_are_refused_before_anything_listens(bundle: ToyBundle) -> None:
    with pytest.raises(ConfigError, match="num_steps can only be set for tokenizers that decode by diffusion"):
        serve(bundle, title="toy", decoder_steps=4, device="cpu")


def test_an_example_can_be_chosen_again_after_old_files_were_removed(
    bundle: ToyBundle, photo: bytes, tmp_path: Path, monkeypatch: Any
) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'fourm[serve]'")
    from gradio.route_utils import delete_files_created_by_app

    (tmp_path / "all" / "bedroom").mkdir(parents=True)
    (tmp_path / "all" / "bedroom" / "rgb.png").write_bytes(photo)
    pages: list[Any] = []

    def launch(page: Any, *_: Any) -> None:
        page.server_port = 0
        pages.append(page)

    monkeypatch.setattr("fourm.serve.server._launch", launch)
    with running(bundle, title="toy", examples=tmp_path / "all"):
        fill = next(function for function in pages[0].fns.values() if function.name == "fill")
        for _ in range(2):
            filled = asyncio.run(pages[0].process_api(fill, ["bedroom"]))["data"]
            shown = [Path(value["path"]) for value in filled if isinstance(value, dict)]
            assert [path.read_bytes() for path in shown] == [photo]
            delete_files_created_by_app(pages[0], None)
            assert not shown[0].exists()
