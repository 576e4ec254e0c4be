"""Measures: does the character show on held-out prompts, without the constitution in context? One module each."""
