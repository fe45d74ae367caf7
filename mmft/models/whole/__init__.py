"""Whole vision-language models: checkpoints of `AutoModelForImageTextToText`, taken apart into their encoders."""
