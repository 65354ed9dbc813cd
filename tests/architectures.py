"""Tiny random models of many architectures, as transformers makes them; no file is read."""

import torch

SIZES = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
PLACES = {**SIZES, "max_position_embeddings": 64}
GROUPED = {**SIZES, "num_key_value_heads": 2}
PAIRED = {
    "vocab_size": 50, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1, "max_position_embeddings": 64,
}  # fmt: skip

ENCODERS = {
    "bert": ("BertConfig", "BertForMaskedLM", SIZES),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM", PLACES),
    "distilbert": ("DistilBertConfig", "DistilBertForMaskedLM", {
        "vocab_size": 50, "dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24, "pad_token_id": 0,
    }),
    "clip text": ("CLIPTextConfig", "CLIPTextModel", PLACES),
    "electra": ("ElectraConfig", "ElectraForMaskedLM", {**SIZES, "embedding_size": 16}),
    "albert, one layer used twice": ("AlbertConfig", "AlbertForMaskedLM", {**SIZES, "embedding_size": 16}),
    "modernbert, a window": ("ModernBertConfig", "ModernBertForMaskedLM", {
        **SIZES, "local_attention": 4, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2,
    }),
}  # fmt: skip
DECODERS = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {
        "vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0,
    }),
    "gpt-neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", SIZES),
    "opt": ("OPTConfig", "OPTForCausalLM", {
        **SIZES, "ffn_dim": 24, "max_position_embeddings": 64, "word_embed_proj_dim": 16,
    }),
    "llama": ("LlamaConfig", "LlamaForCausalLM", GROUPED),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", GROUPED),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**GROUPED, "head_dim": 8}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", GROUPED),
    "mistral, a window": ("MistralConfig", "MistralForCausalLM", {**GROUPED, "sliding_window": 3}),
    "gemma2, a window and soft caps": ("Gemma2Config", "Gemma2ForCausalLM", {
        **GROUPED, "head_dim": 8, "sliding_window": 3,
    }),
    "gpt-oss, sinks": ("GptOssConfig", "GptOssForCausalLM", {
        **GROUPED, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 3,
    }),
}  # fmt: skip
PAIRS = {
    "bart": ("BartConfig", "BartForConditionalGeneration", PAIRED),
    "marian": ("MarianConfig", "MarianMTModel", PAIRED),
    "t5, relative positions": ("T5Config", "T5ForConditionalGeneration", {
        "vocab_size": 50, "d_model": 16, "d_kv": 4, "num_layers": 2, "num_heads": 4, "d_ff": 24,
        "decoder_start_token_id": 0,
    }),
}  # fmt: skip
PICTURES = {
    "vit": ("ViTConfig", "ViTModel", {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24, "image_size": 16,
        "patch_size": 4,
    }),
    "deit, a token to distil into": ("DeiTConfig", "DeiTModel", {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24, "image_size": 16,
        "patch_size": 4,
    }),
    "dinov2, registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_ratio": 2, "image_size": 16,
        "patch_size": 4, "num_register_tokens": 2,
    }),
}  # fmt: skip

TOKENS = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(0))
RAGGED = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
PICTURE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def tiny(case, implementation="eager"):
    """Make a tiny random model, the same for each implementation, ready for inference."""
    import transformers

    config, model, numbers = case
    torch.manual_seed(1)
    made = getattr(transformers, model)._from_config(
        getattr(transformers, config)(**numbers), attn_implementation=implementation
    )
    return made.eval()
