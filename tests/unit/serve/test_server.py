from __future__ import annotations

import os
import sys
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
