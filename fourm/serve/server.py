"""`fourm serve`: the page of one model, until it is stopped."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fourm.errors import ConfigError, MissingExtraError
from fourm.generate.bundle import Bundle, get_ready
from fourm.generate.interleaved import writes_rows
from fourm.serve.fields import input_fields, target_names
from fourm.serve.limits import Limits

_log = logging.getLogger(__name__)
_SPARE = 2**20
"""Bytes of a request beside its file."""
_SESSIONS = 200
"""Visitors whose conversations are kept."""


def serve(
    bundle: Bundle,
    *,
    title: str,
    host: str = "127.0.0.1",
    port: int = 7860,
    limits: Limits | None = None,
    examples: Path | None = None,
    allow_host: Sequence[str] = (),
    device: str = "auto",
    bf16: bool = False,
    decoder_steps: int | None = None,
    decoder_scheduler: str | None = None,
) -> None:
    """Serve the page of a model until Ctrl-C or SIGTERM.

    Args:
        bundle: model and tokenizers.
        title: heading of the page.
        host, port: where to listen.
        limits: the most that one request may hold.
        examples: folder of examples, see `fourm.serve.examples`; of models of text and images what may be shown before
            questions, see `fourm.generate.shots`.
        allow_host: names under which browsers may ask for the page; see `fourm.serve.guard`.
        device: auto, cuda, mps or cpu.
        bf16: compute in bfloat16, the tokenizers' decoders too.
        decoder_steps, decoder_scheduler: how tokenizers decode by diffusion; None: as each was saved.

    Raises:
        MissingExtraError: without gradio.
        ConfigError: if the port is taken, or an option is wrong.
    """
    targets = dict.fromkeys(modality.name for modality in bundle.model.modalities.outputs)
    get_ready(bundle, targets, device, bf16=bf16, decoder_steps=decoder_steps, decoder_scheduler=decoder_scheduler)
    with running(
        bundle, title=title, host=host, port=port, limits=limits or Limits(), examples=examples,
        allow_host=allow_host, bf16=bf16,
    ) as url:  # fmt: skip
        print(f"{title}: {url}  (Ctrl-C stops it)", flush=True)  # noqa: T201
        _wait()


@contextmanager
def running(
    bundle: Bundle,
    *,
    title: str,
    host: str = "127.0.0.1",
    port: int = 7860,
    limits: Limits | None = None,
    examples: Path | None = None,
    allow_host: Sequence[str] = (),
    bf16: bool = False,
) -> Iterator[str]:
    """The page while the block lasts; gives its address. Its files vanish with it. See `serve`."""
    temporary = tempfile.TemporaryDirectory(prefix="fourm-serve-", ignore_cleanup_errors=True)
    with temporary as name, _environment(folder := Path(name)):
        try:
            import gradio.themes
            from starlette.middleware import Middleware
        except ImportError as error:
            raise MissingExtraError("gradio", "serve", "the web page") from error
        from fourm.serve.guard import Guard, own_names
        from fourm.serve.look import STYLE

        limits = limits or Limits()
        page = _page(bundle, folder, limits, title=title, examples=examples, bf16=bf16)
        page.queue(max_size=limits.queue, default_concurrency_limit=1, api_open=False)
        fonts = ["system-ui", "sans-serif"]
        options: dict[str, Any] = {
            "theme": gradio.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"]),
            "css": STYLE,
            "middleware": [
                Middleware(Guard, max_bytes=limits.upload_bytes + _SPARE, names=own_names(host, allow_host))
            ],
        }
        try:
            _launch(page, host, port, limits, options)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}, port {port}: {error.strerror or 'it is taken'}; choose another --port, or "
                "another --host"
            ) from error
        try:
            yield f"http://{f'[{host}]' if ':' in host else host}:{page.server_port}"
        finally:
            page.close(verbose=False)


def _page(bundle: Bundle, folder: Path, limits: Limits, *, title: str, examples: Path | None, bf16: bool) -> Any:
    """The page that fits the model: for rows of text and images a conversation, else any modality from any others."""
    # Not among the uploads, whose files gradio removes an hour after somebody has used them.
    results, shown = folder / "results", folder / "shown"
    results.mkdir()
    shown.mkdir()
    if writes_rows(bundle.model):
        from fourm.serve.talk import Talker
        from fourm.serve.talk_page import build_talk_page

        return build_talk_page(Talker(bundle, results, bf16=bf16, examples=examples), limits, title=title)
    from fourm.serve.examples import load_examples
    from fourm.serve.page import build_page
    from fourm.serve.worker import Worker

    fields = input_fields(bundle)
    return build_page(
        Worker(bundle, results, bf16=bf16), fields, target_names(bundle), limits, title=title,
        examples=load_examples(examples, shown, fields, limits) if examples else None,
    )  # fmt: skip


def _launch(page: Any, host: str, port: int, limits: Limits, options: dict[str, Any]) -> None:
    page.launch(
        server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False, inbrowser=False,
        show_error=False, allowed_paths=[], max_file_size=limits.upload_bytes, ssr_mode=False, mcp_server=False,
        pwa=False, enable_monitoring=False, run_history=False, footer_links=[], state_session_capacity=_SESSIONS,
        theme=options["theme"], css=options["css"],
        app_kwargs={"middleware": options["middleware"], "docs_url": None, "redoc_url": None, "openapi_url": None},
    )  # fmt: skip


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """What gradio reads from the environment: where its files lie, and that it calls nobody."""
    (folder / "uploads").mkdir()
    ours = {
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "GRADIO_EXAMPLES_CACHE": str(folder / "examples"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_ALLOWED_PATHS": "",
        "GRADIO_ROOT_PATH": "",
        "GRADIO_NUM_WORKERS": "0",
    }
    before = {key: os.environ.get(key) for key in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            os.environ.update({key: value} if value is not None else {})


def _wait() -> None:
    """Until Ctrl-C, or a SIGTERM, which ends with status 143."""
    ended = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        while not ended.wait(1.0):
            pass
        sys.exit(143)
    finally:
        signal.signal(signal.SIGTERM, before)
