r"""A small pretrained pair of our own, made of DINOv2-small and MiniLM.

No weights of CLIP are needed: the pair learns from free drawings and photographs and their names.

    python tools/pair/rows.py OUT --clipart ../shared/data/clipart
    python tools/pair/start.py OUT/start --rows OUT/rows.parquet --wordnet OUT/src/deb/wordnet-base/usr/share/wordnet \
        --image-encoder ../shared/encoders/dinov2-small --text-encoder ../shared/encoders/minilm-l6
    python tools/pair/align.py OUT/aligned --start OUT/start --rows OUT/rows.parquet
    python tools/pair/judge.py OUT/aligned --clipart ../shared/data/clipart --emoji OUT/emoji.parquet

tools/pair/tiny.py says how the pair of the two shipped encoders follows from it.
"""
