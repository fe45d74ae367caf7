"""A table of wrong configs and their messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mmft.config.compose import Composed

Refused = Callable[..., str]

TABLES = ("data.path=null", "data.train=rows.csv", "data.val=val.csv")

# What is typed beside a complete config -> what the message must contain.
WRONG: dict[str, tuple[list[str], list[str]]] = {
    # keys
    "typo in a key": (["data.pth=x"], ["data.pth: no such key", "Did you mean data.path?", "typed: data.pth=x"]),
    "typo behind +": (["+sede=3"], ["sede: no such key", "Did you mean seed?", "typed: +sede=3"]),
    "typo in a section": (
        ["trainr.max_epochs=3"],
        ["trainr.max_epochs: no such key", "Did you mean trainer.max_epochs?"],
    ),
    "section left out": (["batch_size=8"], ["batch_size: no such key", "Did you mean data.batch_size?"]),
    "typo in a group": (["optimizer=sgd"], ["optimizer: no such key", "Did you mean optim?"]),
    "typo in a nested group": (["model/fusoin=concat"], ["model/fusoin: no such group", "Did you mean model/fusion?"]),
    "a key as a group": (["tune/fusion=freeze"], ["tune/fusion: it is a key, not a group. Type tune.fusion=freeze"]),
    "typo in an option": (["optim=sdg"], ["'sdg' is not an option", "Did you mean sgd?", "adamw, adamw_8bit"]),
    "unknown experiment": (["experiment=clipatr"], ["'clipatr' is not an option", "Did you mean clipart?"]),
    "option that does not exist": (["logger=comet"], ["'comet' is not an option", "Options: none"]),
    "another option's key": (["optim.momentum=0.5"], ["momentum", "belongs to optim=sgd, not to optim=adamw"]),
    "another option's key, sgd": (["optim=sgd", "optim.beta1=0.5"], ["belongs to optim=adamw", "Type optim=adamw"]),
    "frozen encoder's rate": (["tune=head_only", "tune.image_encoder.lr=1"], ["belongs to tune/image_encoder=full"]),
    "option of a group written with a dot": (["data.subset=kcenter"], ["data/subset: 'kcenter'", "mean k_center?"]),
    "subset without a number": (
        ["data.subset=k_center"],
        ["data.subset.method: changes nothing without", "Type data.subset.fraction=0.1 or data.subset.rows=200"],
    ),
    "half a subset": (["data.subset.by_label=false"], ["data.subset.by_label: changes nothing without the number"]),
    "two sizes of a subset": (
        ["data.subset.rows=5", "data.subset.fraction=0.1"],
        ["data.subset.rows: does not go with data.subset.fraction: type one of them"],
    ),
    "subset of nothing": (["data.subset.fraction=0"], ["0.0 is out of bounds", "above 0 and at most 1"]),
    "subset of no class": (
        ["task=regression", "data.subset.rows=5", "data.subset.by_label=true"],
        ["data.subset.by_label: true needs a class for every row, but task=regression has none"],
    ),
    "subset of a few": (["data.subset.rows=5", "data.overfit=8"], ["does not go with data.overfit"]),
    "section as a value": (["model.image_encoder=vit"], ["is not a section", "model.image_encoder.name"]),
    "type instead of group": (["optim.type=sgd"], ["Type optim=NAME"]),
    "key taken out": (["~optim.lr"], ["optim.lr: a key cannot be removed", "optim.lr=null"]),
    "group taken out": (["~logger"], ["logger: a group cannot be removed"]),
    "package": (["optim@second=sgd"], ["a package cannot be chosen", "Type optim=OPTION"]),
    "no value": (["optim"], ["is not an override", "Type optim=VALUE"]),
    # values
    "word for a whole number": (["trainer.max_epochs=three"], ["'three' is not allowed", "an integer, at least 1"]),
    "fraction for a whole number": (["trainer.max_epochs=2.0"], ["2.0 is not allowed", "an integer"]),
    "truth value for a whole number": (["seed=true"], ["seed: true is not allowed", "an integer"]),
    "word for a truth value": (["modality_report=1"], ["true or false"]),
    "truth value for a text": (["data.columns.label=true"], ["true is not allowed", "a string or a list of strings"]),
    "null where none is allowed": (["data.batch_size=null"], ["null is not allowed", "an integer"]),
    "nan": (["optim.lr=nan"], ["optim.lr: nan is not allowed"]),
    "infinity": (["optim.clip_norm=inf"], ["inf is not allowed"]),
    "below its bound": (["optim.head_lr=0"], ["0.0 is out of bounds", "above 0"]),
    "above its bound": (["optim.beta1=1"], ["1.0 is out of bounds", "at least 0 and below 1"]),
    "negative seed": (["seed=-1"], ["-1 is out of bounds"]),
    "no such choice": (["trainer.precision=fp16"], ["'fp16' is not allowed", "bf16-mixed"]),
    "choice with a typo": (["data.resize=squahs"], ["one of squash, crop, pad", "Did you mean squash?"]),
    "list of the wrong type": (["task.class_weights=[a,b]"], ["a list of numbers"]),
    "mapping of the wrong type": (["callbacks.gradient_accumulation.schedule={a:1}"], ["a mapping of integers"]),
    "value that cannot be read": (["data.root=a (1)"], ["data.root: cannot be parsed", "'a (1)'"]),
    "not a colour": (["data.background=wihte"], ["not a colour", "Did you mean white?"]),
    "name that is no folder": (["name='a b/c'"], ["cannot be a folder's name", "name=a_b_c"]),
    "stray byte of a shell": (["data.root=\udce9"], ["data.root: cannot be parsed", "\\udce9"]),
    # files
    "path that no disk can hold": (
        ["data.path=" + "x" * 3000],
        ["data.path: cannot be used: File name too long", "..."],
    ),
    "option that no disk can hold": (["tune=" + "x" * 3000], ["is not an option of this group", "..."]),
    "no such file": (["data.path=row.csv"], ["there is no file 'row.csv'", "Did you mean rows.csv?"]),
    "folder for a file": (["data.path=images"], ["is a folder"]),
    "no such folder": (["data.root=pics"], ["data.root: there is no folder 'pics'"]),
    "no such encoder": (["model.image_encoder.name=./vit"], ["there is no folder './vit'"]),
    "folder without an encoder": (["model.text_encoder.name=images"], ["not an encoder", "config.json"]),
    "no such run": (["init=runs/gone"], ["init: there is no folder 'runs/gone'"]),
    # pairs
    "table and files": (["data.train=val.csv"], ["data.path: does not go with data.train"]),
    "no table": (["data.path=null"], ["must be given", "data.path=FILE"]),
    "val without train": (["data.val=val.csv"], ["data.val: changes nothing without data.train. Type data.train=FILE"]),
    "one file twice": (
        ["data.path=null", "data.train=rows.csv", "data.val=rows.csv"],
        ["must be different files"],
    ),
    "test tables without a file": (
        [*TABLES, "data.test={photo:phot.csv,sketch:rows-*.csv}"],
        ["data.test.photo: there is no file 'phot.csv'", "data.test.sketch: there is no file 'rows-*.csv'"],
    ),
    "test tables that the shell took apart": (
        [*TABLES, "data.test=photo:val.csv", "data.test=sketch:rows.csv"],
        ["data.test: there is no file 'sketch:rows.csv'", "in quotes: 'data.test={NAME:FILE,NAME:FILE}'"],
    ),
    "a test table's name": (
        [*TABLES, "data.test='{a.b:photo.csv,x y:photo.csv}'"],
        ["data.test.a.b: 'a.b' cannot be a table's name: use 1 to 40", "data.test.x y: 'x y' cannot be a table's name"],
    ),
    "a test table with a metric's name": (
        [*TABLES, "data.test={loss:photo.csv}"],
        ["data.test.loss: a table cannot be called loss, because metrics such as test/loss/... have that name"],
    ),
    "a test table with a task's name": (
        [
            *TABLES,
            *("task=several", "task.tasks={label:classification,title:regression}", "data.columns.text=text"),
            *("data.columns.label=[label,title]", "data.test={title:photo.csv}"),
        ],
        ["data.test.title: a table cannot be called title"],
    ),
    "no test table": ([*TABLES, "data.test={}"], ["data.test: names no table"]),
    "a test table of nothing": ([*TABLES, "data.test={photo:[]}"], ["data.test.photo: is empty. Type a file"]),
    "a test table that is null": (
        [*TABLES, "data.test={photo:null}"],
        ["is not allowed; expected a string or a list of strings or a mapping of strings to strings or lists of"],
    ),
    "a test table that is trained on": (
        [*TABLES, "data.test={photo:photo.csv,own:rows.csv}"],
        ["must be different files"],
    ),
    "test tables beside one table": (
        ["data.test={photo:photo.csv}"],
        ["data.test: changes nothing without data.train"],
    ),
    "split column and files": (
        ["data.path=null", "data.train=rows.csv", "data.columns.split=split"],
        ["data.columns.split: does not go with data.train"],
    ),
    "fractions that do not add up": (["data.fractions.train=0.9"], ["= 1.1, which must be 1"]),
    "fractions beside a split column": (
        ["data.columns.split=split", "data.fractions.train=0.7", "data.fractions.val=0.2"],
        ["data.fractions: changes nothing"],
    ),
    "a fold of nothing": (["data.fold=1"], ["data.fold: changes nothing without data.folds. Type data.folds=5"]),
    "folds, and none held out": (["data.folds=3"], ["data.fold: must be given with data.folds=3", "0,1,2"]),
    "a fold too many": (["data.folds=3", "data.fold=3"], ["which are numbered 0 to 2"]),
    "folds and a validation file": (
        ["data.path=null", "data.train=rows.csv", "data.val=val.csv", "data.folds=2", "data.fold=0"],
        ["data.folds: does not go with data.val"],
    ),
    "folds of nothing held out": (["data.folds=2", "data.fold=0", "data.overfit=8"], ["data.folds: does not go with"]),
    "neither image nor text": (["data.columns.image=null", "data.columns.text=null"], ["data.columns.image=COLUMN"]),
    "no label": (["data.columns.label=null"], ["data.columns.label: must be given to train"]),
    "label as text": (["data.columns.text=[title,label]"], ["'label' as data.columns.label and data.columns.text"]),
    "empty column": (["data.columns.text=[]"], ["data.columns.text: the name is empty"]),
    "micro-batch larger than the batch": (["data.micro_batch_size=64"], ["64 is more than data.batch_size=32"]),
    "block zero": (["model.image_encoder.feature_layer=0"], ["0 is no block. Type -1 for the last one"]),
    "a block and pooling behind it": (
        ["model.image_encoder.feature_layer=-1", "model.image_encoder.pool=own"],
        ["-1 leaves out what model.image_encoder.pool=own pools with"],
    ),
    "a block of a pair": (
        ["model.pair=openai/clip-vit-base-patch32", "model.image_encoder.feature_layer=-2"],
        ["-2 does not go with model.pair, which says itself"],
    ),
    "image no multiple of the patch": (["model.image_encoder.image_size=100"], ["patch size of 16", "96 or 112"]),
    "dropout twice": (
        ["model.dropout=0.3", "model.fusion.dropout=0.2"],
        ["changes nothing, because model.dropout=0.3"],
    ),
    "heads that cannot share the width": (
        ["model/fusion=cross", "model.fusion.heads=3"],
        ["model.fusion.heads: 3 heads do not divide model.fusion.width=256", "Type model.fusion.width=258"],
    ),
    "heads of a fusion that has none": (
        ["model/fusion=film", "model.fusion.heads=2"],
        ["model.fusion.heads: belongs to", "model/fusion=cross", "not to model/fusion=film"],
    ),
    "a condition that is no modality": (
        ["model/fusion=film", "model.fusion.condition=txt"],
        ["one of text, image", "Did you mean text?"],
    ),
    "no queries": (["model/fusion=resampler", "model.fusion.queries=0"], ["0 is out of bounds", "at least 1"]),
    "a crop of everything": (["data.augment.crop=1"], ["1.0 is out of bounds", "above 0 and below 1"]),
    "all tokens dropped": (["data.augment.token_dropout=1"], ["1.0 is out of bounds", "at least 0 and below 1"]),
    "a probability above 1": (
        ["data.augment.flip=1.5", "data.augment.erasing=2"],
        ["augment.flip: 1.5", "augment.erasing: 2"],
    ),
    "no such policy": (["data.augment.policy=randaugment"], ["Did you mean rand_augment?"]),
    "no such augmentation": (["data/augment=lihgt"], ["'lihgt' is not an option", "Options: light, none, strong"]),
    "settings of another policy": (
        ["data.augment.policy=trivial_augment", "data.augment.rand_augment_ops=3"],
        ["data.augment.rand_augment_ops: changes nothing, because", "Type data.augment.policy=rand_augment"],
    ),
    "images to change that are not there": (
        ["data.columns.image=null", "data/augment=light"],
        [
            "data.augment.crop, data.augment.color_jitter change nothing",
            "data.columns.image is null",
            "data/augment=none",
        ],
    ),
    "texts to change that are not there": (
        ["data.columns.text=null", "data.augment.token_dropout=0.1"],
        ["data.augment.token_dropout changes nothing, because data.columns.text is null. Leave it out"],
    ),
    "mixed numbers": (
        ["task=regression", "data.augment.mixup=0.2", "data.augment.cutmix=1"],
        ["data.augment.mixup, data.augment.cutmix: mixing targets", "does not go with task=regression. Leave them out"],
    ),
    "mixed labels": (["task=multi_label", "data.augment.cutmix=1"], ["not go with task=multi_label. Leave it out"]),
    "mixed answers": (["task=question_answering", "data.augment.mixup=1"], ["not go with task=question_answering"]),
    "balanced answers": (["task=question_answering", "data.sampler=balanced"], ["needs a class for every row"]),
    "nothing between answers": (["task=question_answering", "task.separator=''"], ["Type task.separator='|'"]),
    "one answer": (["task=question_answering", "task.vocabulary=[yes]"], ["task.vocabulary: ", "at least two names"]),
    "an answer twice": (["task=question_answering", "task.vocabulary=[no,yes,no]"], ["duplicates or empty ones"]),
    "an empty answer": (["task=question_answering", "task.vocabulary=[no,' ']"], ["without duplicates or empty ones"]),
    "counted answers of a given vocabulary": (
        ["task=question_answering", "task.vocabulary=[no,yes]", "task.answers=9", "task.min_count=1"],
        ["task.answers: does not go with task.vocabulary", "task.min_count: does not go with"],
    ),
    "a vocabulary of one": (["task=question_answering", "task.answers=1"], ["task.answers: 1 is out of bounds"]),
    "answers in no row": (["task=question_answering", "task.min_count=0"], ["task.min_count: 0 is out of bounds"]),
    "a loss of another task": (["task=question_answering", "task.loss=focal"], ["one of bce, cross_entropy"]),
    "columns of answers": (
        ["task=question_answering", "data.columns.label=[a,b]"],
        ["a list needs a task with several targets", "Type data.columns.label=COLUMN"],
    ),
    "pairs' fusion for answers": (["task=question_answering", "model/fusion=dual"], ["dual does not go with task="]),
    "views of nothing": (["cache.views=2"], ["cache.views: changes nothing, because no image is augmented"]),
    "views of texts": (["cache.views=2", "data.augment.token_dropout=0.1"], ["no image is augmented"]),
    "mixed views": (
        ["cache.views=2", "data.augment.mixup=0.2"],
        ["cache.views: does not go with data.augment.mixup: an image is mixed with another in each epoch"],
    ),
    "rounded shards": (
        ["cache.dtype=int8", "trainer=fsdp", "trainer.devices=2"],
        ["cache.dtype: changes nothing with"],
    ),
    "mixed pairs": (["task=contrastive", "data.augment.mixup=1"], ["does not go with task=contrastive"]),
    "mixed focal": (["task.loss=focal", "data.augment.mixup=1"], ["does not go with task.loss=focal"]),
    "one label": (["task.labels=[cat]"], ["at least two names"]),
    "huber's delta without huber": (["task=regression", "task.huber_delta=2"], ["Type task.loss=huber"]),
    "several labels for one target": (["data.columns.label=[a,b]"], ["Type data.columns.label=COLUMN"]),
    "a label twice": (["task=regression", "data.columns.label=[a,a]"], ["two roles"]),
    "balanced regression": (["task=regression", "data.sampler=balanced"], ["needs a class for every row"]),
    "a list of weights for labels in any order": (["task=multi_label", "task.pos_weight=[1,2]"], ["Type task.labels="]),
    "weights for other columns": (
        ["task=multi_label", "task.pos_weight=[1,2,3]", "data.columns.label=[a,b]"],
        ["3 numbers for 2 labels (a, b)"],
    ),
    "labels and columns of labels": (
        ["task=multi_label", "task.labels=[a,b]", "data.columns.label=[a,b]"],
        ["task.labels: changes nothing"],
    ),
    "unknown columns": (
        ["task=multi_label", "task.unknown=ignored", "data.columns.label=[a,b]"],
        ["task.unknown: changes nothing"],
    ),
    "nothing between labels": (["task=multi_label", "task.separator=''"], ["Type task.separator='|'"]),
    "balanced labels": (["task=multi_label", "data.sampler=balanced"], ["needs a class for every row"]),
    "a threshold that is none": (["task=multi_label", "task.thresholds=1.5"], ["1.5 is out of bounds"]),
    "focal's gamma without focal": (["task.focal_gamma=1"], ["Type task.loss=focal"]),
    "gammas without asymmetric": (
        ["task=multi_label", "task.gamma_pos=1", "task.gamma_neg=1", "task.clip=0"],
        ["task.gamma_pos: changes", "task.gamma_neg: changes", "task.clip: changes", "Type task.loss=asymmetric"],
    ),
    "smoothed focal": (["task.loss=focal", "task.label_smoothing=0.1"], ["does not go with task.loss=focal"]),
    "positives weighed twice": (
        ["task=multi_label", "task.loss=asymmetric", "task.pos_weight=balanced"],
        ["task.pos_weight: does not go with task.loss=asymmetric"],
    ),
    "a threshold of three": (
        ["task.threshold_metric=f1", "task.labels=[a,b,c]"],
        ["needs two classes, but task.labels has 3"],
    ),
    "tuned on nothing": (
        ["task.calibration=temperature", "data.fractions={train:0.9,val:0,test:0.1}"],
        ["task.calibration: needs validation rows, but data.fractions.val is 0"],
    ),
    "weights without labels": (["task.class_weights=[1,2]"], ["Type task.labels="]),
    "weights for other labels": (["task.class_weights=[1,2,3]", "task.labels=[a,b]"], ["3 numbers for 2 labels"]),
    "rate of frozen encoders": (["tune=head_only", "optim.lr=1e-4"], ["optim.lr: changes nothing"]),
    "decay of frozen encoders": (["tune=head_only", "optim.layer_decay=0.8"], ["optim.layer_decay: changes nothing"]),
    "rate that both encoders override": (
        ["optim.lr=1e-4", "tune.image_encoder.lr=1e-5", "tune.text_encoder.lr=1e-5"],
        ["optim.lr: changes nothing, because the encoders' own keys override it"],
    ),
    "rank of nobody": (["tune.rank=4"], ["tune.rank: changes nothing", "tune/image_encoder=full"]),
    "rank that both encoders override": (
        ["tune=lora", "tune.rank=4", "tune.image_encoder.rank=2", "tune.text_encoder.rank=2"],
        ["tune.rank: changes nothing, because the encoders' own keys override it"],
    ),
    "layers by name and by pattern": (
        ["tune=lora", "tune.text_encoder.targets=mlp", "tune.text_encoder.pattern=query"],
        ["tune.text_encoder.pattern: does not go with tune.text_encoder.targets: both choose"],
    ),
    "pattern that is none": (
        ["tune/image_encoder=pattern", "tune.image_encoder.pattern='('"],
        ["tune.image_encoder: pattern='(' is not a regular expression"],
    ),
    "modality dropout of pairs": (
        ["model.modality_dropout=0.3", "task=contrastive", "model/fusion=dual"],
        ["model.modality_dropout: does not go with task=contrastive"],
    ),
    "modality dropout of one": (
        ["model.modality_dropout=0.3", "data.columns.image=null"],
        ["model.modality_dropout: needs two modalities, but data.columns.image is not set"],
    ),
    "gradual without a beginning": (["tune=gradual", "tune.schedule={1:2}"], ["must start at 0"]),
    "gradual that falls": (["tune=gradual", "tune.schedule={0:2,1:1}"], ["the numbers of layers must increase"]),
    "gradual over shards": (
        ["tune=gradual", "trainer=fsdp", "trainer.devices=2"],
        ["gradual does not go with trainer=fsdp", "Type trainer=ddp"],
    ),
    "8 bits over shards": (
        ["tune=lora_8bit", "trainer=fsdp", "trainer.devices=2"],
        ["trainer=fsdp cannot shard the weights of lora_8bit", "tune/text_encoder=lora"],
    ),
    "4 bits in float64": (["tune=lora_4bit", "trainer.precision=64-true"], ["lora_4bit does not go with trainer."]),
    "8 bits of random weights": (
        ["tune/image_encoder=lora_8bit", "model.image_encoder.pretrained=false"],
        ["model.image_encoder.pretrained=false would freeze random weights", "Type tune/image_encoder=full"],
    ),
    "lengths of 8-bit weights": (
        ["tune/text_encoder=lora_8bit", "tune.text_encoder.dora=true"],
        ["tune.text_encoder: dora needs", "Type tune/text_encoder=lora"],
    ),
    "lengths of both encoders' 8-bit weights": (
        ["tune=lora_8bit", "tune.dora=true"],
        ["tune.image_encoder: dora needs", "tune.text_encoder: dora needs"],
    ),
    "dora of nobody": (["tune.dora=true"], ["tune.dora: changes nothing", "tune/image_encoder=full"]),
    "nesterov without momentum": (
        ["optim=sgd", "optim.nesterov=true", "optim.momentum=0"],
        ["changes nothing without optim.momentum"],
    ),
    "8-bit optimizer of shards": (
        ["optim=adamw_8bit", "trainer=fsdp", "trainer.devices=2"],
        ["optim: adamw_8bit cannot update the sharded weights", "Type optim=adamw, or trainer=ddp"],
    ),
    "paged optimizer in 64 bit": (
        ["optim=paged_adamw", "trainer.precision=64-true"],
        ["optim: paged_adamw keeps its moments in 8 or 32 bits", "Type optim=adamw, or trainer.precision=32-true"],
    ),
    "activations that nobody keeps": (
        ["tune=head_only", "trainer.gradient_checkpointing=true"],
        ["trainer.gradient_checkpointing: changes nothing, because both encoders are frozen", "type tune=full"],
    ),
    "warm-up of a step and a half": (["schedule.warmup=1.5"], ["neither a share below 1 nor a whole number"]),
    "warm-up longer than training": (["schedule.warmup=10", "trainer.max_steps=10"], ["is never reached"]),
    "validation after the end": (
        ["trainer.val_every_epochs=4"],
        ["trainer.val_every_epochs: 4 is more than trainer.max_epochs=3", "Type 3 or less"],
    ),
    "batch schedule without epoch 0": (["callbacks.gradient_accumulation.schedule={1:8}"], ["must start at epoch 0"]),
    "batch schedule beyond the end": (["callbacks.gradient_accumulation.schedule={0:8,9:16}"], ["do not exist"]),
    "empty batch": (["callbacks.gradient_accumulation.schedule={0:0}"], ["at least 1"]),
    "batch smaller than a micro-batch": (
        ["callbacks.gradient_accumulation.schedule={0:4}", "data.micro_batch_size=8"],
        ["data.micro_batch_size=8 is more than the smallest batch size of 4"],
    ),
    "early stopping that cannot see": (
        ["callbacks.early_stopping.patience=2", "data.fractions.val=0", "data.fractions.train=0.9"],
        ["needs validation rows"],
    ),
    "min_delta without patience": (["callbacks.early_stopping.min_delta=0.1"], ["changes nothing without"]),
    "average of shards": (
        ["callbacks.ema.decay=0.9", "trainer=fsdp", "trainer.devices=2"],
        ["callbacks.ema.decay: does not go with trainer.strategy=fsdp: it needs whole weights", "Type trainer=ddp"],
    ),
    "average that grows without a decay": (
        ["callbacks.ema.warmup=false"],
        ["callbacks.ema.warmup: changes nothing", "Type callbacks.ema.decay=0.999"],
    ),
    "a decay of nothing": (["callbacks.ema.decay=1"], ["1.0 is out of bounds", "above 0 and below 1"]),
    "soup of one checkpoint": (
        ["checkpoint.use=soup_greedy"],
        ["checkpoint.keep: soup_greedy averages at least 2 checkpoints. Type checkpoint.keep=3"],
    ),
    "soup of one validation": (
        ["checkpoint.use=soup_uniform", "checkpoint.keep=3", "trainer.val_every_epochs=2"],
        ["checkpoint.use: soup_uniform", "trainer.max_epochs=3 gives only one", "Type trainer.max_epochs=4"],
    ),
    "soup that cannot see": (
        ["checkpoint.use=soup_greedy", "checkpoint.keep=2", "data.fractions.val=0", "data.fractions.train=0.9"],
        ["soup_greedy needs validation rows, but data.fractions.val is 0"],
    ),
    "keeping the best of nothing": (
        ["checkpoint.keep=2", "data.fractions.val=0", "data.fractions.train=0.9"],
        ["checkpoint.keep: needs validation rows"],
    ),
    "resume and init": (["resume=run", "init=run"], ["resume: does not go with init"]),
    # sweeps
    "sweep without -m": (["optim.lr=1e-4,1e-3"], ["a sweep, which needs -m", "mmft train -m optim.lr=1e-4,1e-3"]),
    "sweep of options without -m": (["optim=adamw,sgd"], ["needs -m"]),
    # interpolations
    "reference to nothing": (["name=${data.pth}"], ["there is no key data.pth", "Did you mean data.path?"]),
    "reference to a section": (["name=${data}"], ["${data} is a whole section"]),
    "cycle": (["init=${resume}", "resume=${init}"], ["init -> resume -> init"]),
    "code in a resolver": (["name=${oc.decode:1}"], ["'${oc.decode:1}' is not allowed", "Allowed are"]),
    "computed reference": (["name='${data.${task.type}}'"], ["must be written out"]),
    "secret": (["name=${oc.env:AWS_SECRET_ACCESS_KEY}"], ["allowed variables are HOME"]),
    "reference of the wrong type": (["seed=${data.path}"], ["seed: 'rows.csv' is not allowed"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_message(case: str, refused: Refused) -> None:
    overrides, expected = WRONG[case]
    message = refused(*overrides)
    for part in expected:
        assert part in message


def test_one_mistake_gives_one_message(refused: Refused) -> None:
    """A mistake does not cause further messages."""
    for case in ("typo in a key", "typo in an option", "no such file", "below its bound", "sweep without -m"):
        assert len(refused(*WRONG[case][0]).splitlines()) == 1, case


def test_all_at_once(refused: Refused) -> None:
    cases = (
        "typo in a key",
        "typo in an option",
        "no such choice",
        "no such file",
        "sweep without -m",
        "code in a resolver",
    )
    message = refused(*(o for case in cases for o in WRONG[case][0]))
    assert len(message.splitlines()) == len(cases)


@pytest.mark.parametrize("section", ["model", "task", "tune", "optim", "trainer", "callbacks", "checkpoint", "data"])
@pytest.mark.parametrize("given", ["true", "[1]", "a"])
def test_a_file_with_a_value_for_a_section(section: str, given: str, folder: Path, refused: Refused) -> None:
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{section}: {given}\n")
    sweep = ["experiment=mine", "data.path=rows.csv", "seed=0,1"]
    message = refused(*sweep, base=(), config_dirs=[folder / "conf"], multirun=True)
    assert f"{section}: " in message or "Cannot merge DictConfig with ListConfig" in message


def test_what_must_be_given(refused: Refused) -> None:
    message = refused("data=table", base=())
    for key in ("model.image_encoder.name", "model.text_encoder.name", "data.path", "data.columns.label"):
        assert f"{key}: must be given" in message
        assert f"{key}=" in message


USES = {
    "no run": (["out=-"], "run: must be given"),
    "no such run": (["run=gone", "out=-"], "run: there is no folder 'gone'"),
    "a group": (["run=run", "out=-", "data=table"], "mmft predict has no groups"),
    "unknown format": (["run=run", "out=p.xlsx"], ".csv, .jsonl, .parquet"),
    "over the rows": (["run=run", "data.path=rows.csv", "out=./rows.csv"], "would overwrite the rows"),
    "no such folder": (["run=run", "out=gone/p.csv"], "out: there is no folder gone"),
    "key of training": (["run=run", "out=-", "optim.lr=1"], "optim.lr: no such key"),
    "fewer rows": (
        ["run=run", "out=-", "data.path=rows.csv", "data.limit=3"],
        "data.limit: changes nothing: the whole table is used",
    ),
    "label": (
        ["run=run", "out=-", "data.path=rows.csv", "data.columns.label=a"],
        "data.columns.label: changes nothing",
    ),
}


@pytest.mark.parametrize("case", USES)
def test_predict(case: str, refused: Refused) -> None:
    overrides, expected = USES[case]
    assert expected in refused(*overrides, base=(), command="predict")


def test_a_decay_may_take_all_that_follows_the_warm_up(composed: Callable[..., Composed]) -> None:
    config = composed("schedule=wsd", "schedule.decay=1", "schedule.warmup=0.1").config
    assert (config.schedule.decay, config.schedule.warmup) == (1, 0.1)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.test={photo:photo.csv}", "data.path=val.csv"], "data.test: does not go with data.path"),
        (["data.test=val.csv", "data.test.photo=val.csv"], "data.test: is 'val.csv', beside which data.test.photo"),
        (["data.test={photo:gone.csv}"], "data.test.photo: there is no file 'gone.csv'"),
        (["data.test={a.b:val.csv}"], "data.test.a.b: 'a.b' cannot be a table's name"),
        (["data.train=val.csv"], "data.train: no such key"),
    ],
)
def test_test_tables(overrides: list[str], expected: str, refused: Refused) -> None:
    assert expected in refused("run=run", *overrides, base=(), command="test")
    assert "data.test: no such key" in refused("run=run", "data.test=val.csv", "out=o.csv", base=(), command="predict")
