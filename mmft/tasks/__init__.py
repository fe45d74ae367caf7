"""Tasks: what is learned. A task owns its loss, its metrics, how labels become targets and outputs answers."""
