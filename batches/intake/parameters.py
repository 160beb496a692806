"""The parameters that a request may have, by the protocol of the installed vLLM, without importing it.

vLLM also accepts any other name, and silently ignores it; here such names are reported. A test compares the names with
vLLM's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_GENERATING = """
    cache_salt ec_transfer_params frequency_penalty ignore_eos include_stop_str_in_output kv_transfer_params
    logit_bias min_p mm_payload model presence_penalty priority repetition_penalty request_id return_mm_kwargs seed
    session_id skip_special_tokens stop stop_token_ids stream structured_outputs temperature top_k top_p user
    vllm_xargs watermarking
"""
_SCORING = """
    cache_salt chat_template_kwargs documents instruction max_tokens_per_doc max_tokens_per_query mm_processor_kwargs
    model padding priority request_id truncate_prompt_tokens truncation_side use_activation user
"""
_NAMES = {
    "/v1/chat/completions": _GENERATING
    + """
    add_generation_prompt add_special_tokens allowed_token_ids bad_words chat_template chat_template_kwargs
    continue_final_message documents echo include_reasoning length_penalty logprob_token_ids logprobs
    max_completion_tokens max_tokens media_io_kwargs messages min_tokens mm_processor_kwargs n parallel_tool_calls
    prompt_logprobs reasoning_effort repetition_detection response_format return_prompt_text return_token_ids
    return_token_offsets return_tokens_as_token_ids routed_experts_prompt_start spaces_between_special_tokens
    stream_interval stream_options thinking_token_budget tool_choice tools top_logprobs truncate_prompt_tokens
    truncation_side use_beam_search
""",
    "/v1/completions": _GENERATING
    + """
    add_special_tokens allowed_token_ids bad_words echo length_penalty logprob_token_ids logprobs max_tokens
    min_tokens n prompt prompt_embeds prompt_logprobs repetition_detection response_format return_token_ids
    return_token_offsets return_tokens_as_token_ids routed_experts_prompt_start spaces_between_special_tokens
    stream_interval stream_options suffix thinking_token_budget truncate_prompt_tokens truncation_side
    use_beam_search
""",
    "/v1/responses": _GENERATING
    + """
    background chat_template_kwargs enable_response_messages include include_reasoning input instructions
    max_output_tokens max_tool_calls media_io_kwargs metadata mm_processor_kwargs parallel_tool_calls
    previous_input_messages previous_response_id prompt prompt_cache_key reasoning service_tier store text
    tool_choice tools top_logprobs truncation
""",
    "/v1/embeddings": """
    add_generation_prompt add_special_tokens cache_salt chat_template chat_template_kwargs continue_final_message
    dimensions embed_dtype encoding_format endianness input media_io_kwargs messages mm_processor_kwargs model
    padding priority request_id truncate_prompt_tokens truncation_side use_activation user
""",
    "/v1/score": _SCORING + " data_1 data_2 items queries text_1 text_2",
    "/v1/rerank": _SCORING + " query top_n",
}
KNOWN = {endpoint: frozenset(names.split()) for endpoint, names in _NAMES.items()}

# Parameters of earlier versions of vLLM, and what to use instead.
_GIVEN_UP = {
    "guided_json": 'write "structured_outputs": {"json": …}, or a "response_format" of type json_schema',
    "guided_regex": 'write "structured_outputs": {"regex": …}',
    "guided_choice": 'write "structured_outputs": {"choice": […]}',
    "guided_grammar": 'write "structured_outputs": {"grammar": …}',
    "guided_whitespace_pattern": 'write "whitespace_pattern" into "structured_outputs"',
    "guided_decoding_backend": "leave it out: the engine's option structured-outputs-config has the backend",
    "extra_body": "write what is in it into the body itself, as the official client does before it sends a request",
}

# The endpoints that take tools. Without a parser, vLLM refuses tools in a chat; in a response the calls are then plain
# text, whatever the tool choice is.
_CALLING = ("/v1/chat/completions", "/v1/responses")


@dataclass(frozen=True)
class Serving:
    """What validation needs to know about a model's engine. is_remote: it is a remote server, which may know other
    parameters. reads_tool_calls: it reads tool calls out of answers. by_guidance: llguidance applies constraints."""

    is_remote: bool = False
    reads_tool_calls: bool = True
    by_guidance: bool = False


def refusal(endpoint: str, body: Mapping[str, Any], serving: Serving) -> tuple[str, str] | None:
    """The parameter that the engine cannot apply, and why; None when there is none."""
    if serving.is_remote:
        return None
    for name in unknown(endpoint, body):
        if name in _GIVEN_UP and body[name] is not None:
            return name, f"The parameter '{name}' is not supported, because the engine ignores it: {_GIVEN_UP[name]}."
    if endpoint in _CALLING and body.get("tools") and not serving.reads_tool_calls:
        choice = body.get("tool_choice", "auto")
        if choice not in (None, "none"):
            return "tools", (
                "The model's engine does not read tool calls: set its options enable-auto-tool-choice=true and "
                'tool-call-parser (e.g. hermes, as it suits the model), or send "tool_choice": "none".'
            )
    return None


def unknown(endpoint: str, body: Mapping[str, Any]) -> list[str]:
    """The names in the body that vLLM ignores."""
    return sorted(body.keys() - KNOWN[endpoint])
