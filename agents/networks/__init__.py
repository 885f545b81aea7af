"""Q-networks: encoders of pixels, heads, the layers that they are made of, and copies of them in bf16."""
