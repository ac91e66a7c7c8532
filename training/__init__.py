"""Distillation of the draft for SmolLM2-135M-Instruct; needs PyTorch, the app does not."""
