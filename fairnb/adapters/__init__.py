"""Small changes of a model: bias neurons, LoRA, prefix tokens, h-guidance, and their files."""
