"""How much can a LoRA adapter remember word for word?"""
