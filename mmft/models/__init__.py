"""The model: two encoders, a fusion, a head. Knows torch, timm and transformers, neither Lightning nor Hydra."""
