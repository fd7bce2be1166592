"""What the page does with a request before our own checks see it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fourm.serve.fields import Field, target_names
from fourm.serve.limits import Limits
from fourm.serve.worker import Worker
from tests.unit.generate.toy import ToyBundle

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'fourm[serve]'")

import gradio as gr

from fourm.serve.page import build_page


@pytest.mark.parametrize("address", ["http://localhost:1/photo.png", "https://huggingface.co/photo.png"])
def test_an_address_in_place_of_a_file_is_refused_by_every_input_and_never_fetched(
    worker: Worker, bundle: ToyBundle, fields: dict[str, Field], monkeypatch: Any, address: str
) -> None:
    page = build_page(worker, list(fields.values()), target_names(bundle), Limits(), title="toy")
    event = next(function for function in page.fns.values() if function.api_name == "generate")
    fetched: list[str] = []

    async def fetch(url: str, **_: Any) -> str:
        fetched.append(url)
        return __file__

    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", fetch)
    file = {"path": address, "meta": {"_type": "gradio.FileData"}}
    assert len(event.inputs) > 10
    for number in range(len(event.inputs)):
        for value in (file, {"background": file, "layers": [file]}, [file]):
            values = [value if number == place else None for place in range(len(event.inputs))]
            with pytest.raises(gr.Error, match="this page fetches nothing from other hosts: upload the file"):
                asyncio.run(page.preprocess_data(event, values, None))
    assert fetched == []
