"""Exports finished models: encoder folders, whole models of other libraries, adapters for peft, a model card."""
