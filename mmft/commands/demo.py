"""`mmft demo run=RUN`: a page in the browser to try a run and to mark its answers, until it is stopped."""

from __future__ import annotations

import getpass
import logging
import os
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr
from fastapi import FastAPI

from mmft import logs
from mmft.config.compose import Composed
from mmft.config.paths import rebase
from mmft.config.schema.root import DemoConfig
from mmft.errors import ExitCode
from mmft.files import located
from mmft.run.demo.examples import examples_of
from mmft.run.demo.marks import MarksFile, file_name
from mmft.run.demo.page import Page, text_columns
from mmft.run.given_run import data_of_command, folder_of_model, given_model, name_of_model
from mmft.run.serve.rows import predictions, rows_config
from mmft.run.serve.server import listen, run_until_stopped, url_of

log = logging.getLogger(__name__)
_GRACE = 2  # seconds; open pages hold a connection each


def demo(composed: Composed) -> int:
    """Prints the page's address on stdout once the model is loaded, and serves it.

    Returns:
        The exit code.

    Raises:
        UserError: there is no such run, or the address cannot be used.
        Stopped: by a signal.
    """
    config: DemoConfig = composed.config
    logs.configure(None)
    with listen(config.host, config.port) as listening, TemporaryDirectory(prefix="mmft-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # what people upload is gone at the end
        app = application(page_of(composed, Path(folder)), Path(folder))
        print(url_of(listening), flush=True)
        run_until_stopped(app, listening, _GRACE)
    return ExitCode.DONE


def application(page: Page, folder: Path) -> FastAPI:
    """The application that serves the page; `folder` has the images of its examples."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        app,
        page.blocks(),
        path="/",
        allowed_paths=[str(folder)],
        footer_links=[],
        ssr_mode=False,
        show_error=False,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),  # others are downloaded
    )
    return app


def page_of(composed: Composed, folder: Path) -> Page:
    """The page of the command's run.

    Args:
        composed: of `mmft demo`.
        folder: where images of examples are written.

    Raises:
        UserError: there is no such run, or a key does not go with it.
    """
    config: DemoConfig = composed.config
    model = given_model(composed)
    served = predictions(model, config, rows_config(data_of_command(composed, model), 1))
    served.warm_up()
    by = config.by or _user()
    marks = folder_of_model(config) / file_name(by) if config.marks is None else located(config.marks)
    log.info("marks are kept in %s. There is no password; Ctrl-C stops the page", marks.absolute())
    examples = []
    if config.run is not None:
        run = rebase(model.saved.config, model.saved.working_directory)
        examples = examples_of(run, text_columns(served), config.examples, folder)
    return Page(name_of_model(config), served, examples, MarksFile(marks), by)


def _user() -> str:
    """The name of whoever runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "anonymous"
