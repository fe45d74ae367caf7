"""`mmft serve run=RUN`: answers requests over HTTP until it is stopped."""

from __future__ import annotations

import logging

from fastapi import FastAPI

from mmft import logs
from mmft.config.compose import Composed
from mmft.config.schema.root import ServeConfig
from mmft.errors import ExitCode
from mmft.files import located
from mmft.run.given_run import data_of_command, given_model, name_of_model
from mmft.run.index.index import Index
from mmft.run.serve.app import create_app
from mmft.run.serve.rows import embeddings, found_rows, predictions, rows_config
from mmft.run.serve.server import listen, run_until_stopped, url_of
from mmft.run.serve.streaming import pieces_of

log = logging.getLogger(__name__)
_GRACE = 30  # seconds


def serve(composed: Composed) -> int:
    """Prints the server's address on stdout once the model is loaded, and serves.

    Returns:
        The exit code.

    Raises:
        UserError: there is no such run, or the address cannot be used.
        Stopped: by a signal, after what had arrived was answered.
    """
    config: ServeConfig = composed.config
    logs.configure(None)
    with listen(config.host, config.port) as listening:
        app = application(composed)
        print(url_of(listening), flush=True)
        run_until_stopped(app, listening, _GRACE)
    return ExitCode.DONE


def application(composed: Composed) -> FastAPI:
    """The application that serves the command's model, which is loaded and has computed a first row.

    Raises:
        UserError: there is no such run or index, or a key does not go with it.
    """
    config: ServeConfig = composed.config
    model = given_model(composed)
    data = rows_config(data_of_command(composed, model), config.max_batch)
    served = {"predictions": predictions(model, config, data), "embeddings": embeddings(model, data)}
    if config.index is not None:
        served["queries"] = found_rows(Index(model, located(config.index)), data, config.top)
    for one in served.values():
        one.warm_up()
    columns = served["predictions"].reader.names
    log.info("columns of a row: %s. There is no password; Ctrl-C stops the server", ", ".join(columns))
    about = {"model": name_of_model(config), "task": model.saved.config.task.type, "columns": columns}
    return create_app(served, config, about, pieces_of(model, served["predictions"]))
