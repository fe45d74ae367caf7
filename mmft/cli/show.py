"""`--cfg`, `--info` and `--hydra-help`: Hydra shows the config, or how it is composed.

Calls Hydra's classes directly instead of `hydra.main`, which would parse `sys.argv` again, exit with code 1 on every
error, and search a user's `--config-dir` after mmft's folder.
"""

from __future__ import annotations

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra

from mmft.cli.flags import Flags
from mmft.config.compose import compose
from mmft.config.loader import Loader


def show(command: str, flags: Flags) -> None:
    """Prints what the flags request.

    Raises:
        UserError: lists everything that is wrong with the overrides.
    """
    lines = compose(command, flags.overrides, flags.config_dirs, partial=True).lines
    hydra = Hydra(task_name="mmft", config_loader=Loader(command, flags.config_dirs))
    GlobalHydra.instance().initialize(hydra)
    try:
        if flags.hydra_help:
            parser = get_args_parser()
            hydra.hydra_help(command, args_parser=parser, args=parser.parse_args([]))
        elif flags.info:
            hydra.show_info(flags.info, config_name=command, overrides=lines)
        elif flags.cfg:
            hydra.show_cfg(command, lines, cfg_type=flags.cfg, package=None, resolve=flags.resolve)
    finally:
        GlobalHydra.instance().clear()
