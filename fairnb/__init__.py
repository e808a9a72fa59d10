"""fairnb: measure the social bias of Stable Diffusion, find the weights that carry it, fine-tune only those."""

__version__ = "0.1.0"
