"""Published foundation networks (NVIDIA MAISI, NV-Generate-CTMR) behind the same Protocol as our own generators."""
