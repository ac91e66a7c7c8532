"""The same pair, prompts, K and temperature through everything a user would pick instead."""
