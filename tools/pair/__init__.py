r"""A small pretrained pair of our own, made of DINOv2-small and MiniLM.

No weights of CLIP are needed: the pair learns from free drawings and photographs and their names.

    python tools/pair/rows.py OUT --clipart ../shared/data/clipart
    python tools/pair/start.py OUT/start --rows OUT/rows.parquet --wordnet OUT/src/deb/wordnet-base/usr/share/wordnet \
        --image-encoder ../shared/encoders/dinov2-small --text-encoder ../shared/encoders/minilm-l6
    python tools/pair/apart.py OUT/apart --rows OUT/rows.parquet --clipart ../shared/data/clipart \
        --image-encoder ../shared/encoders/dinov2-small
    python tools/pair/align.py OUT/aligned --start OUT/start --rows OUT/apart.parquet --features OUT/apart.npy \
        --epochs 0
    TRAIN="mmft train name=pair paths.runs=OUT/runs task=contrastive data.path=OUT/apart.parquet data.batch_size=256 \
        data.columns.image=image data.columns.text=title data.columns.split=split data.columns.group=group \
        tune/image_encoder=last_n tune.image_encoder.layers=4 tune/text_encoder=full modality_report=false"
    $TRAIN model.pair=OUT/aligned trainer.max_steps=70 optim.lr=1e-4 tune.fusion_lr=5e-4
    mmft export run=OUT/runs/pair/... format=transformers out=OUT/once
    $TRAIN model.pair=OUT/once seed=1 trainer.max_steps=80 optim.lr=5e-5 tune.fusion_lr=2e-4 schedule.warmup=0.05
    mmft export run=OUT/runs/pair/... format=transformers out=OUT/pair
    python tools/pair/judge.py OUT/pair --clipart ../shared/data/clipart --emoji OUT/emoji.parquet

A test runs these commands on small packages and encoders (tests/test_pair_chain.py). The two trainings see 150 batches,
or 38,400 of 55,000 rows; the second, with another seed, in another order. The pair whose figures docs/pairs.md has was
trained by these commands, but that its first training was planned for 130 steps and cut to 70 after the 49th.

The clip-art rows that the pair is judged on are a sample of Open Clip Art, and the pair learns from the rest of it: no
image, title or near-duplicate of the sample, see clip_art.py and apart.py. What was chosen (rows, layers, rates) was
chosen by the pair's own validation rows and those of clip art.

tools/pair/tiny.py says how the pair that mmft ships, of its two shipped encoders, is made of the same rows.
"""
