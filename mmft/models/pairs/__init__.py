"""Pretrained pairs: checkpoints of an image and a text encoder that were trained together (CLIP, SigLIP)."""
