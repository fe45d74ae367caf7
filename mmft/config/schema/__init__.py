"""The schemas of every config group, one file per group; `root` has those of the commands.

To add an option, write its dataclass into the group's file with `@option(group, name, builds=...)`: its choice, help
and completion follow from that. Importing this package also registers installed plugins (`mmft.config.plugins`).
"""

from mmft.config.plugins import installed
from mmft.config.schema import root  # noqa: F401 - registers mmft's own options, which plugins may extend

installed()
