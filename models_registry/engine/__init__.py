"""The engine: vLLM's OpenAI server as a child process, or any OpenAI-compatible URL. It does not depend on Django."""
