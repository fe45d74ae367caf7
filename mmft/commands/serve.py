"""`mmft serve run=RUN`: answers requests over HTTP until it is stopped."""

from __future__ import annotations

import logging

from mmft import logs
from mmft.config.compose import Composed
from mmft.config.schema.root import ServeConfig
from mmft.errors import ExitCode
from mmft.run.given_run import data_of_command, given_model, name_of_model
from mmft.run.serve.app import create_app
from mmft.run.serve.rows import embeddings, predictions, rows_config
from mmft.run.serve.server import listen, run_until_stopped, url_of

log = logging.getLogger(__name__)


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
        model = given_model(composed)
        data = rows_config(data_of_command(composed, model), config.max_batch)
        served = {"predictions": predictions(model, config, data), "embeddings": embeddings(model, data)}
        for one in served.values():
            one.answers([dict.fromkeys(one.reader.names)])  # the first row takes longest
        reader = served["predictions"].reader
        about = {"model": name_of_model(config), "task": model.saved.config.task.type, "columns": reader.names}
        log.info("columns of a row: %s. There is no password; Ctrl-C stops the server", ", ".join(reader.names))
        print(url_of(listening), flush=True)
        run_until_stopped(create_app(served, config, about), listening)
    return ExitCode.DONE
