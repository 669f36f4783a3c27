"""The paper's protocol in plain PyTorch: what memlaw_jax is checked and timed against (README.md here)."""
