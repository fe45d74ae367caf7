"""Finished models for other libraries: encoder folders of timm and transformers, adapters of peft, a model card."""
