"""The stages that make data, one module each, and the words we say to models (prompts/)."""
