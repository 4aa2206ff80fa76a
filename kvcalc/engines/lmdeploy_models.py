"""Which models LMDeploy's PyTorch engine 0.18.0 has: pytorch/models/module_map.py, pytorch/configurations/*.py."""

from __future__ import annotations

#: Language models of pytorch/models/module_map.py.
_NATIVE_TEXT = """
BaiChuanForCausalLM BaichuanForCausalLM ChatGLMForConditionalGeneration ChatGLMModel CogVLMForCausalLM
DeepseekForCausalLM DeepseekV2ForCausalLM DeepseekV3ForCausalLM DeepseekVLV2ForCausalLM Gemma2ForCausalLM
Gemma3ForCausalLM Gemma3ForConditionalGeneration GemmaForCausalLM Glm4ForCausalLM Glm4MoeForCausalLM
Glm4MoeLiteForCausalLM Glm4vForConditionalGeneration GptOssForCausalLM HYV3ForCausalLM InternLM2ForCausalLM
InternLM2VEForCausalLM InternLM3ForCausalLM InternLMForCausalLM InternS1ForConditionalGeneration
InternS1ProForConditionalGeneration InternS2PreviewForConditionalGeneration InternVLChatModel
InternVLForConditionalGeneration KimiK25ForConditionalGeneration Kimi_K25ForConditionalGeneration
Llama4ForConditionalGeneration LlamaForCausalLM LlavaForConditionalGeneration LlavaNextForConditionalGeneration
MiniCPM3ForCausalLM MiniCPMV MistralForCausalLM MixtralForCausalLM Phi3ForCausalLM Phi3VForCausalLM PhiMoEForCausalLM
QWenLMHeadModel Qwen2ForCausalLM Qwen2MoeForCausalLM Qwen2VLForConditionalGeneration
Qwen2_5_VLForConditionalGeneration Qwen3ForCausalLM Qwen3MoeForCausalLM Qwen3NextForCausalLM
Qwen3OmniMoeForConditionalGeneration Qwen3VLForConditionalGeneration Qwen3VLMoeForConditionalGeneration
Qwen3_5ForConditionalGeneration Qwen3_5MoeForConditionalGeneration SDARForCausalLM SDARMoeForCausalLM
Starcoder2ForCausalLM
"""
NATIVE = frozenset(_NATIVE_TEXT.split())
#: Known to LMDeploy, with caches (indexer keys, compressed entries, cross attention) that are not modelled here.
NOT_MODELLED = frozenset(
    {"DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM", "DeepseekV4ForCausalLM", "MllamaForConditionalGeneration"}
)
#: Cache the heads that MLA expands to, V as wide as K: configurations/minicpm3.py.
EXPANDED = "MiniCPM3ForCausalLM"
