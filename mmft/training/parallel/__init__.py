"""Several ranks: where they meet, what they send, sharding, and Lightning strategies."""
