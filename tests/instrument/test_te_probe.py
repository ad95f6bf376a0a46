"""Reading what Transformer Engine logs when it selects an attention backend."""

from __future__ import annotations

from tetrace.instrument import te_probe


def test_the_selection_is_read_from_the_log() -> None:
    said = [
        "Running with config={'transformer_engine_version': '2.20.2'}",
        "Disabling FlashAttention 4 for dropout",
        "Disabling FusedAttention: cuDNN says\n no",
        "Disabling UnfusedDotProductAttention due to NVTE_UNFUSED_ATTN=0",
        "Available backends = {FlashAttention=True (2.7.4), FusedAttention=False, UnfusedDotProductAttention=False}",
        "Selected backend = FlashAttention (2.7.4).",
    ]
    assert te_probe._read(said) == {
        "selected": "FlashAttention (2.7.4)",
        "available": {"FlashAttention": True, "FusedAttention": False, "UnfusedDotProductAttention": False},
        "refused": [
            {"backend": "FlashAttention 4", "reason": "for dropout"},
            {"backend": "FusedAttention", "reason": "cuDNN says no"},
            {"backend": "UnfusedDotProductAttention", "reason": "due to NVTE_UNFUSED_ATTN=0"},
        ],
    }


def test_a_log_of_a_release_that_says_nothing() -> None:
    assert te_probe._read([]) == {"selected": "", "available": {}, "refused": []}
