"""Exports finished models: encoder folders for timm and transformers, adapters for peft, a model card."""
