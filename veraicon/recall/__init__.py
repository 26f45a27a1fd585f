"""Taking outputs back: what was made of which source, where its copies went, and the recall itself."""
