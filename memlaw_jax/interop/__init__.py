"""Adapters to and from other tools: PEFT, plain torch, merged checkpoints, the paper's release."""
