"""Talking with characters, side by side: who answers, in the terminal, and in a browser."""
