"""The model card in its forms: the digested file, Markdown for people, CHAI XML."""
