"""`mmft report run=RUN`: writes `report.html`, a page that shows a run or a sweep, into its folder."""

from __future__ import annotations

from mmft import logs
from mmft.commands.output import print_path
from mmft.config.compose import Composed
from mmft.config.schema.report import ReportConfig
from mmft.errors import ExitCode
from mmft.files import located
from mmft.run.listing.sweep_page import write_sweep_page
from mmft.run.report import complete_predictions, write_report
from mmft.run_folder import find_run, is_sweep


def report(composed: Composed) -> int:
    """Writes the page and prints its path.

    Returns:
        The exit code.

    Raises:
        UserError: there is no such run or sweep, or a run needs plugins that are not allowed.
    """
    config: ReportConfig = composed.config
    logs.configure(None)
    if config.run != "last" and is_sweep(located(config.run)):
        print_path(write_sweep_page(located(config.run)))
        return ExitCode.DONE
    folder = find_run(config.run, located(config.paths.runs))
    complete_predictions(folder, config.trainer.accelerator, config.attributions)
    print_path(write_report(folder).path)
    return ExitCode.DONE
