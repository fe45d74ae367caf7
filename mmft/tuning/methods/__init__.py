"""Tuning methods of one encoder, one file per kind.

To add one: a subclass of `TuningMethod`, its dataclass in `mmft/config/schema/tune.py`, and `conf/tune/<name>.yaml`
with one file each in `conf/tune/image_encoder` and `conf/tune/text_encoder`.
"""
