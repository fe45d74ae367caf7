"""What an option must be given besides its name."""

from __future__ import annotations

TWO_TASKS = ["data.columns.label=[label,number]", "task.tasks={label:classification,number:regression}"]


def must(group: str, name: str) -> list[str]:
    """Overrides without which the option `name` of `group` is refused; nothing for most."""
    encoders = ("tune.image_encoder", "tune.text_encoder") if group == "tune" else (group.replace("/", "."),)
    needs = {
        "pattern": [f"{encoder}.pattern=bias" for encoder in encoders],
        "dual": ["task=contrastive"],
        "several": TWO_TASKS,
        "generation": ["model/fusion=projector"],
        "projector": ["task=generation"],
    }
    needs["matching"] = ["data.columns.label=null"]  # the sample's say what an image shows
    if group == "data/subset" and name != "none":
        return ["data.subset.rows=20"]
    return needs.get(name, [])
