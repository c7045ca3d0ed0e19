"""Shipped numerics: losses, advantages, rewards. Each submodule may import torch; this file may not."""
