"""Published weights on disk: folders in Hugging Face's format."""
