"""Which model classes SGLang 0.5.23 has, and the lists of classes that its cache rules go by.

SGLang decides by the `architectures` entry of config.json, not by what a layer does: a sliding window saves
memory only for the classes listed here, a latent cache exists only for the classes listed here.

Source: sglang 0.5.23, srt/models/*.py `EntryClass`; the lists: srt/configs/model_config.py.
"""

from __future__ import annotations

from kvcalc.core.model import Model
from kvcalc.engines import classes


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Language models of srt/models/*.py (drafts, encoders, reward and embedding heads left out).
NATIVE = _names(
    """
AfmoeForCausalLM ApertusForCausalLM ArceeForCausalLM BaichuanForCausalLM BailingMM2NativeForConditionalGeneration
BailingMMNativeForConditionalGeneration BailingMoEForCausalLM BailingMoeForCausalLM BailingMoeV2ForCausalLM
BailingMoeV2_5ForCausalLM BailingMoeV3ForCausalLM BailingMoeV3VLForConditionalGeneration BeamForCausalLM ChatGLMModel
Cohere2ForCausalLM Cohere2MoeForCausalLM Cohere2VisionForConditionalGeneration CohereForCausalLM
Cosmos3EdgeForConditionalGeneration Cosmos3ForConditionalGeneration DbrxForCausalLM DeciLMForCausalLM
DeepseekForCausalLM DeepseekOCRForCausalLM DeepseekV2ForCausalLM DeepseekV32ForCausalLM DeepseekV3ForCausalLM
DeepseekV4ForCausalLM DeepseekVL2ForCausalLM DiffusionGemmaForBlockDiffusion Dots3NoteForCausalLM DotsOCRForCausalLM
DotsVLMForCausalLM Ernie4_5_ForCausalLM Ernie4_5_MoeForCausalLM Ernie4_5_VLMoeForConditionalGeneration
Exaone4ForCausalLM ExaoneForCausalLM ExaoneMoEForCausalLM ExaoneMoeForCausalLM FalconH1ForCausalLM
FalconMambaForCausalLM GPT2LMHeadModel GPTBigCodeForCausalLM GPTJForCausalLM Gemma2ForCausalLM Gemma3ForCausalLM
Gemma3ForConditionalGeneration Gemma3nForCausalLM Gemma3nForConditionalGeneration Gemma4ForCausalLM
Gemma4ForConditionalGeneration Gemma4UnifiedForConditionalGeneration GemmaForCausalLM GigaChat35ForCausalLM
Glm4ForCausalLM Glm4MoeForCausalLM Glm4MoeLiteForCausalLM Glm4vForConditionalGeneration
Glm4vMoeForConditionalGeneration Glm5NextForConditionalGeneration GlmAsrForConditionalGeneration
GlmImageForConditionalGeneration GlmMoeDsaForCausalLM GlmOcrForConditionalGeneration GptOssForCausalLM
GraniteForCausalLM GraniteMoeForCausalLM GraniteMoeHybridForCausalLM GraniteMoeSWAForCausalLM
GraniteMoeSharedForCausalLM GraniteSWAForCausalLM Grok1ForCausalLM Grok1ModelForCausalLM HYV3ForCausalLM
HYV4ForCausalLM HrmTextForCausalLM HunYuanDenseV1ForCausalLM HunYuanMoEV1ForCausalLM IQuestCoderForCausalLM
IQuestLoopCoderForCausalLM IQuestQ1ForCausalLM InklingForConditionalGeneration InternLM2ForCausalLM
InternLM3ForCausalLM InternS1ForConditionalGeneration InternS1ProForConditionalGeneration
InternS2MobiusForConditionalGeneration InternS2PreviewForConditionalGeneration InternVLChatModel
JetNemotronForCausalLM JetVLMForConditionalGeneration K2HorizonForCausalLM KimiK25ForConditionalGeneration
KimiK3ForConditionalGeneration KimiK3LinearForCausalLM KimiLinearForCausalLM KimiVLForConditionalGeneration
LLaDA2MoeModelLM LagunaForCausalLM Lfm2ForCausalLM Lfm2MoeForCausalLM Lfm2VlForConditionalGeneration
LightOnOCRForConditionalGeneration Llama4ForCausalLM Llama4ForConditionalGeneration LlamaForCausalLM
LlavaForConditionalGeneration LlavaLlamaForCausalLM LlavaMistralForCausalLM LlavaQwenForCausalLM LlavaVidForCausalLM
LocateAnythingForConditionalGeneration LongcatFlashForCausalLM Mamba2ForCausalLM MambaForCausalLM MellumForCausalLM
MiDashengLMModel MiMoForCausalLM MiMoV2ASRForCausalLM MiMoV2FlashForCausalLM MiMoV2ForCausalLM MiniCPM3ForCausalLM
MiniCPMForCausalLM MiniCPMO MiniCPMSALAForCausalLM MiniCPMV MiniCPMV4_6ForConditionalGeneration
MiniCPMV4_7ForConditionalGeneration MiniMaxM2ForCausalLM MiniMaxM3SparseForCausalLM
MiniMaxM3SparseForConditionalGeneration Ministral3ForCausalLM Mistral3ForConditionalGeneration MistralForCausalLM
MistralLarge3ForCausalLM MixtralForCausalLM MllamaForConditionalGeneration MossVLForConditionalGeneration
MultiModalityCausalLM MuseGlimmerForCausalLM MuseGlimmerForConditionalGeneration MuseSparkForConditionalGeneration
NVILAForConditionalGeneration NVILALiteForConditionalGeneration NanbeigeForCausalLM NemotronHForCausalLM
NemotronHPuzzleForCausalLM NemotronH_Nano_Omni_Reasoning_V3 NemotronH_Nano_VL_V2 NemotronH_Omni_Reasoning_V3
OPTForCausalLM Olmo2ForCausalLM Olmo3ForCausalLM OlmoForCausalLM OlmoeForCausalLM OrionForCausalLM POINTSV15ChatModel
PaddleOCRVLForConditionalGeneration PersimmonForCausalLM Phi3ForCausalLM Phi3SmallForCausalLM Phi4MMForCausalLM
PhiForCausalLM PhiMoEForCausalLM PixtralForConditionalGeneration QWenLMHeadModel QuantMixtralForCausalLM
Qwen2AudioForConditionalGeneration Qwen2ForCausalLM Qwen2MoeForCausalLM Qwen2VLForConditionalGeneration
Qwen2_5_VLForConditionalGeneration Qwen3ASRForConditionalGeneration Qwen3ForCausalLM Qwen3MoeForCausalLM
Qwen3NextForCausalLM Qwen3OmniMoeForConditionalGeneration Qwen3VLForConditionalGeneration
Qwen3VLMoeForConditionalGeneration Qwen3_5ForCausalLM Qwen3_5ForConditionalGeneration Qwen3_5MoeForCausalLM
Qwen3_5MoeForConditionalGeneration Qwen4ExpForConditionalGeneration SDARForCausalLM SDARMoeForCausalLM
Sarashina2VisionForCausalLM SarvamMLAForCausalLM SarvamMoEForCausalLM SolarForCausalLM Spark2_5ForCausalLM
StableLmForCausalLM Starcoder2ForCausalLM Step3VLForConditionalGeneration Step3p5ForCausalLM
Step3p7ForConditionalGeneration StepVLForConditionalGeneration TeleFLMForCausalLM UnlimitedOCRForCausalLM
VoxtralForConditionalGeneration WhisperForConditionalGeneration XllmForCausalLM XverseForCausalLM XverseMoeForCausalLM
YiVLForCausalLM ZayaForCausalLM
"""
)

#: Classes with two pools, one for full and one for sliding layers: `is_hybrid_swa_model`.
SLIDING = _names(
    """
BeamForCausalLM Llama4ForConditionalGeneration DeepseekV4ForCausalLM GptOssForCausalLM GraniteSWAForCausalLM
GraniteMoeSWAForCausalLM IQuestQ1ForCausalLM MiMoV2ForCausalLM MiMoV2FlashForCausalLM Step3p5ForCausalLM
Step3p7ForConditionalGeneration Gemma4ForCausalLM Gemma4ForConditionalGeneration Gemma4UnifiedForConditionalGeneration
DiffusionGemmaForBlockDiffusion LagunaForCausalLM MellumForCausalLM MuseGlimmerForCausalLM
MuseGlimmerForConditionalGeneration MuseSparkForConditionalGeneration InklingForConditionalGeneration
UnlimitedOCRForCausalLM Spark2_5ForCausalLM Dots3NoteForCausalLM
"""
)
#: Of those, the sliding pool has heads and widths of its own: `is_hybrid_swa_compress`.
SLIDING_OWN_HEADS = _names(
    """
MiMoV2ForCausalLM MiMoV2FlashForCausalLM Gemma4ForCausalLM Gemma4ForConditionalGeneration
InklingForConditionalGeneration Gemma4UnifiedForConditionalGeneration DiffusionGemmaForBlockDiffusion
"""
)
#: The model class counts the window without the token itself: `get_attention_sliding_window_size` = window - 1.
EXCLUSIVE_WINDOW = _names(
    """
GptOssForCausalLM Gemma4ForCausalLM Gemma4ForConditionalGeneration Gemma4UnifiedForConditionalGeneration
DiffusionGemmaForBlockDiffusion MellumForCausalLM MuseGlimmerForCausalLM MuseGlimmerForConditionalGeneration
MuseSparkForConditionalGeneration InklingForConditionalGeneration BeamForCausalLM Spark2_5ForCausalLM
"""
)
#: Classes that cache the MLA latent: `ModelConfig._derive_model_shapes`.
LATENT = _names(
    """
DeepseekV2ForCausalLM DeepseekV32ForCausalLM DeepseekV3ForCausalLM Glm4MoeLiteForCausalLM GlmMoeDsaForCausalLM
Glm5NextForConditionalGeneration LongcatFlashForCausalLM HYV4ForCausalLM DotsVLMForCausalLM Dots3NoteForCausalLM
MistralLarge3ForCausalLM PixtralForConditionalGeneration KimiK25ForConditionalGeneration GigaChat35ForCausalLM
MiniCPM3ForCausalLM DeepseekVL2ForCausalLM KimiVLForConditionalGeneration KimiLinearForCausalLM
KimiK3LinearForCausalLM KimiK3ForConditionalGeneration BailingMoeV2_5ForCausalLM BailingMoeV3ForCausalLM
BailingMoeV3VLForConditionalGeneration SarvamMLAForCausalLM
"""
)
#: Of those, the ones whose indexer key is kept when the config has index_topk: `is_deepseek_dsa`.
INDEXED_LATENT = _names(
    """
DeepseekV3ForCausalLM DeepseekV32ForCausalLM MistralLarge3ForCausalLM PixtralForConditionalGeneration
GlmMoeDsaForCausalLM Glm5NextForConditionalGeneration LongcatFlashForCausalLM Dots3NoteForCausalLM HYV4ForCausalLM
"""
)
INDEXED_HEADS = frozenset({"MiniMaxM3SparseForCausalLM", "MiniMaxM3SparseForConditionalGeneration"})
#: Rules read from SGLang's source only; no recorded cell confirms them.
UNRECORDED = frozenset({"InklingForConditionalGeneration", "Dots3NoteForCausalLM"})
COMPRESSED = frozenset({"DeepseekV4ForCausalLM"})
#: Classes that read `mamba_ssm_dtype` of the config; the others keep float32 states: `mamba2_cache_params`.
STATE_DTYPE_FROM_CONFIG = _names(
    """
NemotronHForCausalLM NemotronHPuzzleForCausalLM FalconH1ForCausalLM Qwen3NextForCausalLM Qwen3_5ForCausalLM
Qwen3_5ForConditionalGeneration Qwen3_5MoeForCausalLM Qwen3_5MoeForConditionalGeneration JetNemotronForCausalLM
GigaChat35ForCausalLM InternS2PreviewForConditionalGeneration
"""
)
#: Multimodal classes whose name does not say it: `multimodal_model_archs`.
_MULTIMODAL = _names(
    """
DeepseekVL2ForCausalLM DeepseekOCRForCausalLM Grok1VForCausalLM Grok1AForCausalLM LlavaLlamaForCausalLM
LlavaMistralForCausalLM LlavaQwenForCausalLM LlavaVidForCausalLM MiMoV2ASRForCausalLM MiniCPMO MiniCPMV
MultiModalityCausalLM NemotronH_Nano_VL_V2 NemotronH_Nano_Omni_Reasoning_V3 NemotronH_Omni_Reasoning_V3
InternVLChatModel Phi4MMForCausalLM POINTSV15ChatModel DotsVLMForCausalLM Dots3NoteForCausalLM DotsOCRForCausalLM
Sarashina2VisionForCausalLM UnlimitedOCRForCausalLM MiDashengLMModel DiffusionGemmaForBlockDiffusion
"""
)
#: Text-only unless --enable-multimodal: `ModelConfig.__init__`, mm_disabled_models.
MULTIMODAL_OFF = _names(
    """
Gemma3ForConditionalGeneration Llama4ForConditionalGeneration Step3VLForConditionalGeneration
InklingForConditionalGeneration
"""
)


#: Spelt otherwise in configs that were not copied from the checkpoint.
_RESPELT = {"MiniMaxM3ForCausalLM": "MiniMaxM3SparseForCausalLM"}


def class_of(model: Model) -> str | None:
    """The model class SGLang would look for; None where the file names none and none is known."""
    name = classes.class_of(model)
    return None if name is None else _RESPELT.get(name, name)


def is_multimodal(model: Model) -> bool:
    """Whether SGLang treats the model as multimodal: by class, or because its text model is nested in the config."""
    name = class_of(model) or ""
    return model.facts.get("multimodal") is True or name.endswith("ForConditionalGeneration") or name in _MULTIMODAL


def is_supported(model: Model) -> bool:
    """Whether SGLang has a class of its own for the model (its transformers backend is another engine)."""
    name = class_of(model)
    return name is None or name in NATIVE
