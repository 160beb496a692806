"""The engine: vLLM's OpenAI server as a child process, or any OpenAI-compatible URL. Knows nothing of Django."""
