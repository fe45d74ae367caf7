"""`mmft review run=RUN marks=FILE`: what people's marks say of a run's answers."""

from __future__ import annotations

from mmft import logs
from mmft.commands.output import print_path, utf8_stdout
from mmft.config.compose import Composed
from mmft.config.schema.report import ReviewConfig
from mmft.errors import ExitCode, UserError
from mmft.files import located, records_as_csv, write_records
from mmft.reports.page.evidence import Evidence
from mmft.reports.review.marks import mark_files
from mmft.reports.review.review import review as review_of
from mmft.run_folder import find_run


def review(composed: Composed) -> int:
    """Prints agreement, corrected figures and suspects; writes the marked rows to `out`.

    Returns:
        The exit code.

    Raises:
        UserError: there is no such run or file, or marks are broken or not of the run's answers.
    """
    config: ReviewConfig = composed.config
    logs.configure(None)
    folder = find_run(config.run, located(config.paths.runs))
    files = mark_files(config.marks, folder.path)
    if config.out is not None and located(config.out).resolve() in [path.resolve() for path in files]:
        raise UserError(f"out={config.out}: the output would overwrite the marks. Name another file")
    found = review_of(Evidence(folder), files)
    if config.out == "-":
        utf8_stdout().write(records_as_csv(found.rows))
        return ExitCode.DONE
    print(found)
    if config.out is not None:
        write_records(located(config.out), found.rows)
        print_path(config.out)
    return ExitCode.DONE
