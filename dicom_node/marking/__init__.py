"""Marks that say synthetic, beside the attributes that each object has: words, watermark, pictures."""
