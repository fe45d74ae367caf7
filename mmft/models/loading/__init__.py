"""From the name of an encoder to its folder, config and weights: timm, transformers, hub names, trust."""
