"""A causal language model as the text transformer: prompts, the loss over answers, packing, decoding."""
