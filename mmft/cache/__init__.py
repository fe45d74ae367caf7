"""The store of frozen work: what frozen layers compute of a row is computed once, and read from then on."""
