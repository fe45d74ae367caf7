"""Composing: every option file, DESIGN's example line, sweeps, a user's own folder, the origins in messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from mmft.config import compose as composing
from mmft.config.compose import Composed, compose, recompose
from mmft.config.paths import rebase
from mmft.config.schema.root import COMMANDS
from mmft.config.sources import Groups, conf_dir
from mmft.config.validate import to_dict
from mmft.config.walk import OPTIONAL_GROUPS
from mmft.errors import UserError
from mmft.run.naming import make_run_folder, run_name

Compose = Callable[..., Composed]
Refused = Callable[..., str]
Own = Callable[[str, str], Path]

# The keys that people script against, as in DESIGN section 5.
PROMISED = """
name=mine paths.runs=somewhere seed=0 init=null resume=null
data=table data.path=rows.csv data.columns.image=image data.columns.text=title
data.columns.label=label data.columns.split=split data.batch_size=32 data.micro_batch_size=null
data.num_workers=0 data.limit=null data.max_pixels=100_000_000 data.background=white
model.image_encoder.name=FOLDER_OR_NAME model.image_encoder.image_size=112 model.image_encoder.pool=auto
model.text_encoder.name=FOLDER_OR_NAME model.text_encoder.max_length=32 model.text_encoder.pool=auto
model.dropout=null model/fusion=concat task=classification tune=full
optim=adamw optim.lr=null optim.head_lr=1e-3 optim.layer_decay=1.0 optim.clip_norm=1.0
schedule=cosine schedule.warmup=0.1 checkpoint.every_steps=null checkpoint.use=best
trainer=auto trainer.accelerator=auto trainer.devices=1 trainer.precision=auto
trainer.max_epochs=3 trainer.max_steps=null logger=none
"""


def option_files() -> Iterator[tuple[str, str]]:
    groups = Groups([])
    for group in groups.names():
        for name in groups.options(group):
            yield group, name


def test_promised_keys(folder: Path) -> None:
    config = compose("train", PROMISED.split()).config
    assert (config.name, config.data.max_pixels, config.optim.head_lr) == ("mine", 100_000_000, 1e-3)
    assert config.data.path == "rows.csv"
    assert folder == Path.cwd()


def test_no_option_has_a_name_that_yaml_takes_for_another_value() -> None:
    named = {name for group, name in option_files() if group not in OPTIONAL_GROUPS}
    assert not named & {"on", "off", "yes", "no", "null"}


def test_every_option_of_the_registry_can_be_chosen() -> None:
    from mmft.config.registry import choices

    for group, named in choices().items():
        if not group.startswith("hydra/"):  # a sweep's own, which Hydra never sees: tests/launch/sweep
            assert set(named) <= set(Groups([]).options(group))


def test_files_say_something() -> None:
    """Every file lists values that differ from a schema, or sets several groups."""
    from mmft.config.store import default_values
    from mmft.config.store import schemas as schemas_of

    schemas = dict(schemas_of(COMMANDS["train"].config, "train"))
    unchanged = [("data/augment", "none"), ("data/subset", "none")]
    for path in conf_dir().rglob("*.yaml"):
        name, group = path.stem, path.parent.relative_to(conf_dir()).as_posix()
        text = yaml.safe_load(path.read_text())
        entries = [entry for entry in text.get("defaults", []) if entry != "_self_"]
        assert set(text) - {"defaults"} or len(entries) > 1 or (group, name) in unchanged, path
        schema = schemas.get(f"{group}/{name}") or schemas.get(group)
        if schema is not None and group not in OPTIONAL_GROUPS:
            repeated = {k for k, v in default_values(schema).items() if k in text and text[k] == v}
            assert not repeated, f"{group}/{name}.yaml"


def test_defaults_of_the_schema_arrive(composed: Compose) -> None:
    config = composed().config
    assert config.schedule.type == "cosine"
    assert config.tune.text_encoder.type == "full"
    assert config.callbacks.early_stopping.patience is None


def test_a_encoder_overrides_the_method_of_both(composed: Compose) -> None:
    config = composed("tune=head_only", "tune/text_encoder=full").config
    assert (config.tune.image_encoder.type, config.tune.text_encoder.type) == ("freeze", "full")


def test_a_group_may_be_written_with_dots(composed: Compose, tmp_path: Path) -> None:
    result = composed(
        "data.subset=herding", "data.subset.fraction=0.1", "model.fusion=gated", "tune.text_encoder=freeze"
    )
    assert result.choices["data/subset"] == "herding"
    assert (result.config.data.subset.method, result.config.data.subset.fraction) == ("herding", 0.1)
    assert (result.config.model.fusion.type, result.config.tune.text_encoder.type) == ("gated", "freeze")
    swept = composed("data.subset=random,k_center", "data.subset.rows=9,12", multirun=True)
    assert [one.texts for one in swept.parsed if "subset" in one.key] == [
        ["data/subset=random", "data/subset=k_center"],
        ["data.subset.rows=9", "data.subset.rows=12"],
    ]
    (tmp_path / "experiment").mkdir()
    for name, text in {
        "section": "data: {subset: {method: coreset, fraction: 0.1}}",
        "choice": "defaults: [override /data/subset: coreset]\ndata: {subset: {fraction: 0.1}}",
    }.items():
        (tmp_path / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
        assert composed(f"experiment={name}", config_dirs=[tmp_path]).config.data.subset.method == "coreset"
    with pytest.raises(UserError, match=r"Did you mean coreset\?"):
        composed("data.subset=facility_location")


def test_one_value_is_referred_to(composed: Compose) -> None:
    config = composed("data.micro_batch_size=${data.batch_size}", "name=seed_${seed}").config
    assert (config.data.micro_batch_size, config.name) == (32, "seed_0")


def test_texts_stay_as_typed(composed: Compose) -> None:
    """`2026_11` and `1.10` stay strings where a string is expected, although YAML reads them as numbers."""
    config = composed("name=2026_11", "data.columns.label=1.10").config
    assert (config.name, config.data.columns.label) == ("2026_11", "1.10")


def test_plus_and_null_group_are_taken(composed: Compose) -> None:
    result = composed("+seed=3", "++data.limit=5", "experiment=null")
    assert (result.config.seed, result.config.data.limit) == (3, 5)
    assert result.typed[-3:] == ["+seed=3", "++data.limit=5", "experiment=null"]


def test_reads_its_own_config_back(composed: Compose) -> None:
    result = composed("optim=sgd", "callbacks.gradient_accumulation.schedule={0:8,2:16}", "name='a\\${b}'")
    again = recompose("train", yaml.safe_load(yaml.safe_dump(result.resolved_for_disk())))
    assert again.config == result.config
    assert again.config.name == "a${b}"
    assert to_dict(again.config)["optim"]["type"] == "sgd"


def test_environment_is_not_written_to_disk(composed: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMFT_SECRET", "s3cret")
    Path("s3cret/runs").mkdir(parents=True)
    result = composed("paths.runs=${oc.env:MMFT_SECRET}/runs", "data.root=${paths.runs}/..", "data.columns.id=${seed}")
    disk = result.resolved_for_disk()
    assert result.config.paths.runs == "s3cret/runs"
    assert disk["paths"]["runs"] == "${oc.env:MMFT_SECRET}/runs"
    assert disk["data"]["columns"]["id"] == "0"
    assert "s3cret" not in str(disk)


def test_unset_variable(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMFT_NOWHERE", raising=False)
    assert "MMFT_NOWHERE" in refused("name=${oc.env:MMFT_NOWHERE}")


class TestSweep:
    def test_every_combination_is_validated(self, refused: Refused) -> None:
        message = refused("optim=adamw,sgd", "optim.momentum=0.5", multirun=True)
        assert "belongs to optim=sgd, not to optim=adamw" in message
        message = refused("schedule.warmup=1,20", "trainer.max_steps=10,30", multirun=True)
        assert message.count("never reached") == 1

    def test_valid(self, composed: Compose) -> None:
        result = composed("optim.lr=1e-5,3e-5", "seed=range(0,3)", "optim=glob(*)", multirun=True)
        assert "++optim.lr=1e-5,3e-5" in result.lines
        assert "optim=adamw,adamw_8bit,paged_adamw,paged_adamw_8bit,sgd" in result.lines

    def test_large_sweeps_check_each_value(self, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []
        judge = composing._judge
        monkeypatch.setattr(composing, "_judge", lambda *a, **k: calls.append(1) or judge(*a, **k))
        message = refused("seed=range(0,30)", "data.batch_size=range(1,30)", "data.limit=3,x", multirun=True)
        assert "'x' is not allowed" in message
        assert len(calls) == 1 + 29 + 28 + 1

    def test_what_cannot_be_swept(self, refused: Refused) -> None:
        assert "listed" in refused("optim.lr=interval(0,1)", multirun=True)
        assert "'x' is not an option" in refused("optim=adamw,x", multirun=True)
        assert "null is not an option" in refused("experiment=clipart,null", multirun=True)


class TestOwnFolder:
    def test_experiment(self, own: Own, composed: Compose) -> None:
        text = "# @package _global_\ndefaults:\n  - override /optim: sgd\noptim:\n  momentum: 0.5\n"
        result = composed("experiment=mine", config_dirs=[own("experiment/mine", text)])
        assert result.config.optim.momentum == 0.5
        assert run_name(result) == "mine"

    def test_goes_in_front_of_ours(self, own: Own, composed: Compose) -> None:
        folder = own("optim/adamw", "defaults:\n  - /schema/optim/adamw@_here_\n  - _self_\nbeta1: 0.5\n")
        assert composed(config_dirs=[folder]).config.optim.beta1 == 0.5

    def test_own_group(self, own: Own, composed: Compose) -> None:
        folder = own("mixin/small", "# @package _global_\ndata:\n  limit: 3\n")
        assert composed("mixin=small", config_dirs=[folder]).config.data.limit == 3

    @pytest.mark.parametrize(
        ("chosen", "typed", "fusion"),
        [
            ("", [], "pretrained"),
            ("defaults:\n  - override /task: contrastive\n", [], "pretrained"),
            ("", ["task=contrastive"], "pretrained"),
            ("defaults:\n  - override /model/fusion: cross\n", [], "cross"),
            ("", ["model/fusion=cross"], "cross"),
            ("", ["model.pair=null", "model.image_encoder.name=x", "model.text_encoder.name=y"], "concat"),
        ],
    )
    def test_a_files_pair_has_its_own_fusion(self, chosen: str, typed: list[str], fusion: str, own: Own) -> None:
        folder = own("experiment/mine", f"# @package _global_\n{chosen}model:\n  pair: a/b\n")
        found = compose("train", ["data=table", "data.path=x.csv", "experiment=mine", *typed], [folder], partial=True)
        assert found.config.model.fusion.type == fusion
        assert ("model/fusion=pretrained" in found.lines) == (fusion == "pretrained")

    def test_message_names_file_and_line(self, own: Own, refused: Refused) -> None:
        text = "# @package _global_\ndata:\n  limit: 3\n  pth: x\noptim:\n  momentum: 1\n"
        message = refused("experiment=mine", config_dirs=[own("experiment/mine", text)])
        assert "data.pth: no such key. Did you mean data.path?" in message
        assert "(in own/experiment/mine.yaml:4)" in message
        assert "belongs to optim=sgd" in message
        assert "mine.yaml:6)" in message

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("- a\n- b\n", "mine.yaml:1: must be a mapping"),
            ("seed: 1\n  x: [\n", "mine.yaml:2: is not valid YAML"),
            ("seed: 1\nseed: 2\n", "mine.yaml"),
            ("# @package _global_\nseed: ${.}\n", "${.}"),
            ('# @package _global_\ndata:\n  val: "a\\0"\n', "has a null character"),
            ("# @package _global_\nplugins: true\n", "plugins: true is not allowed"),
            ("seed: 1\n", "mine.yaml:1: the package header is missing"),
            ("# @package _global_\ndefaults:\n  - override /optim: sdg\n", "optim/sdg"),
            ("# @package _global_\ndefaults:\n  - override /optimm: sgd\n", "optimm"),
            ("# @package _global_\ndefaults: optim\n", "mine.yaml:2: defaults must be a list"),
        ],
    )
    def test_unreadable(self, text: str, expected: str, own: Own, refused: Refused) -> None:
        assert expected in refused("experiment=mine", config_dirs=[own("experiment/mine", text)])

    def test_no_folder(self, refused: Refused) -> None:
        assert "--config-dir: gone is not a folder" in refused(config_dirs=["gone"])


class TestRunFolder:
    def test_no_two_runs_share_one(self, composed: Compose) -> None:
        result = composed("paths.runs=there", "name=mine")
        first, second, third = (make_run_folder(result, sweep=False) for _ in range(3))
        assert len({first, second, third}) == 3
        assert first.parent == Path("there/mine")
        assert not set("=,: ") & set(str(first))

    def test_exactly(self, composed: Compose) -> None:
        result = composed("hydra.run.dir='a b'")
        folder = make_run_folder(result, sweep=False)
        assert folder == Path("a b")
        (folder / "file").touch()
        with pytest.raises(UserError, match="not empty"):
            make_run_folder(result, sweep=False)

    def test_cannot_be_made(self, composed: Compose) -> None:
        Path("runs").touch()
        with pytest.raises(UserError, match="paths.runs"):
            composed()


@pytest.mark.parametrize(
    "typed",
    [
        ["data.test={photo:photo.csv,others:[rows-*.csv,val.csv]}"],
        ["data.test='{photo:photo.csv,others:[rows-*.csv,val.csv]}'"],
        ["data.test={photo: photo.csv, others: [rows-*.csv, val.csv]}"],
        ["data.test.photo=photo.csv", "data.test.others=[rows-*.csv,val.csv]"],
    ],
)
def test_test_tables_by_name(composed: Compose, folder: Path, tmp_path: Path, typed: list[str]) -> None:
    (folder / "rows-1.csv").touch()
    named = {"photo": "photo.csv", "others": ["rows-*.csv", "val.csv"]}
    found = composed("data.path=null", "data.train=rows.csv", *typed)
    assert found.config.data.test == found.resolved_for_disk()["data"]["test"] == named  # as typed
    assert recompose("train", found.resolved_for_disk()).config.data.test == named
    absolute = rebase(found.config, tmp_path).data.test
    assert absolute == {"photo": f"{tmp_path}/photo.csv", "others": [f"{tmp_path}/rows-*.csv", f"{tmp_path}/val.csv"]}


def test_test_tables_from_a_file(composed: Compose, own: Own) -> None:
    folder = own("data/mine", "defaults: [table, _self_]\npath: null\ntrain: rows.csv\ntest:\n  photo: photo.csv\n")
    found = composed("data=mine", "data.path=null", "data.test.other=val.csv", config_dirs=[folder])
    assert found.config.data.test == {"photo": "photo.csv", "other": "val.csv"}
