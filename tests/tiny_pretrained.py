"Tiny, randomly initialised models of other families, in folders that `from_pretrained` reads."

import importlib
from pathlib import Path

import torch
import transformers as tr

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] . ? the red circle star a blue dog on left what is".split()
SIDE = 128


def _save(folder: Path, model, processor) -> str:
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def _letters() -> tuple:
    # a tokenizer of CLIP that knows letters only, and what a text model must know about it
    letters = [chr(c) for c in range(97, 123)]
    pieces = letters + [c + "</w>" for c in letters] + ["<|startoftext|>", "<|endoftext|>"]
    tokens = tr.CLIPTokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=[])
    text = dict(vocab_size=len(pieces), hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    text |= dict(intermediate_size=37, bos_token_id=52, eos_token_id=53, pad_token_id=53)
    return tokens, text


def tiny_owl(folder: Path) -> str:
    torch.manual_seed(0)
    tokens, text = _letters()
    tokens.model_max_length = 32  # the processor pads to it
    text |= dict(max_position_embeddings=32)
    vision = dict(image_size=SIDE, patch_size=16, hidden_size=32, num_hidden_layers=2)
    vision |= dict(num_attention_heads=4, intermediate_size=37)
    cfg = tr.Owlv2Config(text_config=text, vision_config=vision, projection_dim=32)
    pixels = tr.Owlv2ImageProcessor(size={"height": SIDE, "width": SIDE})
    return _save(folder, tr.Owlv2ForObjectDetection(cfg), tr.Owlv2Processor(pixels, tokens))


def tiny_clipseg(folder: Path) -> str:
    torch.manual_seed(0)
    tokens, text = _letters()
    vision = dict(image_size=64, patch_size=16, hidden_size=32, num_hidden_layers=2)
    vision |= dict(num_attention_heads=4, intermediate_size=37)
    cfg = tr.CLIPSegConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=64,
        reduce_dim=32,
        extract_layers=[1],
        decoder_num_attention_heads=4,
        decoder_intermediate_size=32,
    )
    pixels = tr.ViTImageProcessor(size={"height": 64, "width": 64})
    return _save(folder, tr.CLIPSegForImageSegmentation(cfg), tr.CLIPSegProcessor(pixels, tokens))


def tiny_dino(folder: Path, mm: bool = False) -> str:
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    swin = tr.SwinConfig(
        window_size=7,
        embed_dim=8,
        depths=[1] * 4,
        num_heads=[1] * 4,
        image_size=96,
        out_indices=[2, 3, 4],
    )
    text = dict(model_type="bert", vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=2)
    text |= dict(num_attention_heads=2, intermediate_size=8, max_position_embeddings=32)
    how = dict(
        backbone_config=swin,
        text_config=text,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=4,
        decoder_ffn_dim=4,
        num_queries=5,
        num_feature_levels=4,
        encoder_n_points=2,
        decoder_n_points=3,
        max_text_len=24,
    )
    if mm:
        model = tr.MMGroundingDinoForObjectDetection(tr.MMGroundingDinoConfig(**how))
    else:
        model = tr.GroundingDinoForObjectDetection(tr.GroundingDinoConfig(**how))
    pixels = tr.GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})
    tokens = tr.BertTokenizer(str(folder / "vocab.txt"))
    return _save(folder, model, tr.GroundingDinoProcessor(pixels, tokens))


def _tracking(side: int) -> dict:
    # what the video models of the SAM family share, small
    how = dict(
        image_size=side,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=32,
    )
    return how


def _prompting(name: str, side: int, patch: int, config: str) -> dict:
    # prompt encoder and mask decoder of a model of the SAM family, small
    parts = importlib.import_module(f"transformers.models.{name}.configuration_{name}")
    prompt = getattr(parts, f"{config}PromptEncoderConfig")
    decoder = getattr(parts, f"{config}MaskDecoderConfig")
    heads = dict(num_hidden_layers=2, num_attention_heads=4, iou_head_hidden_dim=32)
    return dict(
        prompt_encoder_config=prompt(
            image_size=side, patch_size=patch, mask_input_channels=8, hidden_size=128
        ),
        mask_decoder_config=decoder(hidden_size=128, mlp_dim=64, **heads),
    )


def _sam2_processor(side: int):
    size = {"height": side, "width": side}
    return tr.Sam2VideoProcessor(
        tr.Sam2ImageProcessor(size=size), tr.Sam2VideoVideoProcessor(size=size)
    )


def tiny_sam2(folder: Path) -> str:
    torch.manual_seed(0)
    det = tr.Sam2HieraDetConfig(
        hidden_size=12,
        image_size=[SIDE, SIDE],
        patch_stride=[4, 4],
        patch_kernel_size=[7, 7],
        patch_padding=[3, 3],
        blocks_per_stage=[1, 2, 2, 1],
        embed_dim_per_stage=[12, 24, 48, 96],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        global_attention_blocks=[4],
    )
    vision = tr.Sam2VisionConfig(
        backbone_config=det,
        backbone_channel_list=[96, 48, 24, 12],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=128,
    )
    cfg = tr.Sam2VideoConfig(
        vision_config=vision,
        memory_attention_rope_feat_sizes=[8, 8],
        **_prompting("sam2_video", SIDE, 16, "Sam2Video"),
        **_tracking(SIDE),
    )
    return _save(folder, tr.Sam2VideoModel(cfg), _sam2_processor(SIDE))


def tiny_edgetam(folder: Path) -> str:
    "EdgeTAM as it is published, with a backbone of timm and weights that mean nothing."
    torch.manual_seed(0)
    maps = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
    repvit = tr.TimmWrapperConfig(architecture="repvit_m1", model_args=maps)
    vision = tr.EdgeTamVisionConfig(backbone_config=repvit)
    cfg = tr.EdgeTamVideoConfig(vision_config=vision)
    return _save(folder, tr.EdgeTamVideoModel(cfg), _sam2_processor(1024))


def tiny_sam3(folder: Path) -> str:
    torch.manual_seed(0)
    side = 112
    tokens, text = _letters()
    text |= dict(max_position_embeddings=32, projection_dim=32)
    vit = tr.Sam3ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=side,
        patch_size=14,
        window_size=4,
        global_attn_indexes=[1],
        pretrain_image_size=56,
    )
    vision = tr.Sam3VisionConfig(
        backbone_config=vit,
        fpn_hidden_size=128,
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        scale_factors=[4.0, 2.0, 1.0, 0.5],
    )
    small = dict(hidden_size=128, num_attention_heads=4, intermediate_size=64)
    detector = tr.Sam3Config(
        vision_config=vision,
        text_config=text,
        geometry_encoder_config=small | dict(num_layers=1),
        detr_encoder_config=small | dict(num_layers=1),
        detr_decoder_config=small | dict(num_layers=1, num_queries=5),
        mask_decoder_config=dict(hidden_size=128, num_attention_heads=4),
    )
    tracker = tr.Sam3TrackerVideoConfig(
        vision_config=vision,
        memory_attention_rope_feat_sizes=[8, 8],
        **_prompting("sam3_tracker_video", side, 14, "Sam3TrackerVideo"),
        **_tracking(side),
    )
    cfg = tr.Sam3VideoConfig(
        detector_config=detector,
        tracker_config=tracker,
        low_res_mask_size=32,
        score_threshold_detection=0.0,
        new_det_thresh=0.0,
    )
    size = {"height": side, "width": side}
    pixels = tr.Sam3ImageProcessor(size=size)
    processor = tr.Sam3VideoProcessor(pixels, tr.Sam2VideoVideoProcessor(size=size), tokens)
    model = tr.Sam3VideoModel(cfg)
    model.tracker_model.mask_decoder.pred_obj_score_head.proj_out.bias.data += 5  # it is in sight
    return _save(folder, model, processor)
