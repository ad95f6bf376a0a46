"""What is stored of the user's machine, and what is not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tetrace.instrument import masking
from tetrace.record import environment


def test_only_listed_variables_are_kept_and_no_secret() -> None:
    found = masking.variables(
        {
            "NVTE_FUSED_ATTN": "0",
            "CUDA_DEVICE_MAX_CONNECTIONS": "1",
            "NCCL_DEBUG": "INFO",
            "OMP_NUM_THREADS": "8",
            "TORCH_AUTH_TOKEN": "x",
            "NCCL_SECRET": "x",
            "CUDA_API_KEY": "x",
            "TORCH_EXTRA": "hf_abcdefghijklmnopqrstuv",
            "TORCH_PROXY": "http://user:password@proxy:3128/x",
            "HOME": "/home/alice",
            "TRITON_CACHE_DIR": "/home/alice/cache",
            "HF_TOKEN": "x",
            "WANDB_API_KEY": "x",
            "USER": "alice",
        }
    )
    assert found == {
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",
        "NCCL_DEBUG": "INFO",
        "NVTE_FUSED_ATTN": "0",
        "OMP_NUM_THREADS": "8",
        "TORCH_EXTRA": "***",
        "TORCH_PROXY": "http://***@proxy:3128/x",
    }


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("train.py --lr 1e-4", "train.py --lr 1e-4"),
        ("train.py --token=abc --x", "train.py --token=*** --x"),
        ("train.py --api-key abc --x 1", "train.py --api-key *** --x 1"),
        ("train.py --hub_token abc", "train.py --hub_token ***"),
        ("train.py wandb.api_key=abc", "train.py wandb.api_key=***"),
        ("env WANDB_API_KEY=abc python train.py", "env WANDB_API_KEY=*** python train.py"),
        ("train.py hf_abcdefghijklmnopqrstuv", "train.py ***"),
        ("train.py --session-token abc --login-token=abc", "train.py --session-token *** --login-token=***"),
        ("train.py --authorization abc --author me", "train.py --authorization *** --author me"),
        ("train.py --api-tokens abc --num-tokens 8", "train.py --api-tokens *** --num-tokens 8"),
        ("train.py --url=https://me:p@ss@host/x", "train.py --url=https://***@host/x"),
        ("train.py --password --verbose", "train.py --password --verbose"),
        ("train.py --max-tokens 4096 --tokenizer gpt2", "train.py --max-tokens 4096 --tokenizer gpt2"),
        ("train.py --max_tokens=4096 --key-dim=64", "train.py --max_tokens=4096 --key-dim=64"),
        ("/home/alice/train.py --data=/home/alice/d /home/alicex", "~/train.py --data=~/d /home/alicex"),
    ],
)
def test_secrets_in_a_command_line_are_masked(typed: str, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    assert " ".join(masking.words(typed.split())) == stored


def test_the_host_is_not_named() -> None:
    assert len(environment.host()) == 8
    int(environment.host(), 16)


def test_git(tmp_path: Path) -> None:
    assert environment.git(tmp_path) is None

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "train.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "one")
    git("remote", "add", "origin", "https://user:password@example.com/x")
    (tmp_path / "untracked").write_text("")
    found = environment.git(tmp_path)
    assert found is not None
    assert (len(str(found["revision"])), found["dirty"], set(found)) == (40, False, {"revision", "dirty"})
    (tmp_path / "train.py").write_text("2")
    assert (environment.git(tmp_path) or {})["dirty"] is True
