"""Serves the page, behind its guards, with nothing from outside and nothing left behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..weights.trained_model import TrainedModel
from .marked import STYLE
from .own_page import OwnPage
from .page import page
from .request_limits import LARGEST_REQUEST, LimitedRequests
from .stop_signals import interrupt_on_stop_signals


def serve(
    trained: TrainedModel, host: str = "127.0.0.1", port: int | None = None, proxied: bool = False
) -> Any:
    """Serves the page without waiting; returns the gradio.Blocks, whose `local_url` tells where.

    Requests under names that are not this machine's, or from other sites' pages, are refused;
    unless `proxied`, where a proxy with a name of its own stands before. Raises OSError where the
    port is taken, or, with None, a hundred of them from 7860 on.
    """
    blocks = page(trained)
    import gradio as gr
    from starlette.middleware import Middleware

    # Fonts by name are the visitor's own; Gradio's default ones come from outside.
    theme = gr.themes.Soft(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    guards = [Middleware(OwnPage, host=None if proxied else host), Middleware(LimitedRequests)]
    blocks.launch(
        server_name=host, server_port=port, theme=theme, css=STYLE, share=False, quiet=True,
        prevent_thread_lock=True, ssr_mode=False, max_file_size=LARGEST_REQUEST,
        app_kwargs={"middleware": guards}, footer_links=[],
        run_history=False, mcp_server=False, enable_monitoring=False, num_workers=0,
    )  # fmt: skip
    return blocks


def serve_until_stopped(
    trained: TrainedModel,
    host: str,
    port: int | None,
    tell: Callable[[str], None],
    proxied: bool = False,
) -> None:
    """Serves the page, as `serve`, and tells where, until Ctrl-C, SIGTERM or SIGHUP."""
    interrupt_on_stop_signals()
    blocks = serve(trained, host, port, proxied)
    tell(f"{trained.name} speaks at {blocks.local_url}")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        blocks.close(verbose=False)
