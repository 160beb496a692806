"""Which models there are, their files and engines, and what the GPU does next."""
