"""Corruptions of images: `diffusion` is UE-DPO's and TPO's, `spatial` are those of the other methods."""
