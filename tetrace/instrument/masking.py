"""What a recording may keep of the user's environment and command line: an allow-list, with secrets masked in it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

# Variables that change what is computed, how fast, or where.
_PREFIXES = (
    *("NVTE_", "CUDA_", "CUBLAS_", "CUBLASLT_", "CUDNN_", "NCCL_", "NVIDIA_TF32_"),
    *("TORCH_", "PYTORCH_", "TORCHINDUCTOR_", "TORCHDYNAMO_", "TRITON_", "ACCELERATE_", "DEEPSPEED_"),
)
_NAMES = {
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "KMP_AFFINITY", "PYTHONHASHSEED"),
    *(
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "RANK",
        "LOCAL_RANK",
        "NODE_RANK",
        "GROUP_RANK",
        "SLURM_NODEID",
        "SLURM_NNODES",
    ),
}
_SECRET_NAME = re.compile(r"token|key|secret|passw|passphrase|credential|auth|cookie|bearer", re.IGNORECASE)
# Words that hold one of those and are no secrets: --max-tokens 4096, --tokenizer gpt2, --key-dim 64, --author x.
_NO_SECRET_NAME = re.compile(
    r"tokeni[sz]er?|(?<![a-z])(num|max|min|n|per|pad|eos|bos|unk|mask|special|new|train|eval|batch)[_.-]?tokens?(?![a-z])"
    r"|tokens[_.-]?per|token[_.-]?(id|type|ids|len|drop)|key[_.-]?(dim|size|heads|word)|query[_.-]?key|keyword|monkey|keep"
    r"|author(?!iz|is)",
    re.IGNORECASE,
)
# Values that are secrets whatever they are called: Hugging Face, OpenAI, GitHub, AWS, Slack, GitLab, JSON web tokens.
_SECRET_VALUE = re.compile(
    r"hf_\w{16,}|sk-[\w-]{16,}|gh[opsru]_\w{16,}|github_pat_\w{16,}|AKIA[0-9A-Z]{12,}|xox[a-z]-[\w-]{8,}"
    r"|glpat-[\w-]{12,}|eyJ[\w-]{8,}\.[\w.-]+|\b[0-9a-f]{40}\b|(?<=[Bb]earer )\S+"
)
# In a command inside a word: bash -c "train.py --api-key abc".
_SECRET_OPTION = re.compile(
    r"(--?[\w-]*(?:api[_-]?key|secret|passw|credential|auth[_-]?token|access[_-]?token)[\w-]*[ =])\S+", re.I
)
_URL_PASSWORD = re.compile(r"(\w+://)[^/\s]+@")
_MASK = "***"


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environ` that a recording keeps, sorted, with what looks like a secret masked."""
    # What loads a recorder into programs is the recorder's own; where compiled code lies changes nothing.
    kept = (
        name
        for name in sorted(environ)
        if (name.startswith(_PREFIXES) or name in _NAMES)
        and "INJECTION" not in name
        and not name.endswith("_CACHE_DIR")
    )
    return {name: plain(environ[name]) for name in kept if not _secret_name(name)}


def words(command: Sequence[str]) -> list[str]:
    """A command line with what looks like a secret masked, and the home folder written as ~."""
    masked, hide_next = [], False
    for word in command:
        name, equals, _value = word.partition("=")
        if hide_next and not word.startswith("-"):
            masked.append(_MASK)
        elif equals and _secret_name(name):
            masked.append(f"{name}={_MASK}")
        else:
            masked.append(plain(word))
        hide_next = not equals and word.startswith("-") and _secret_name(word)
    return masked


def _secret_name(name: str) -> bool:
    """Whether a name says that its value is secret, after what only sounds so is taken out of it."""
    return bool(_SECRET_NAME.search(_NO_SECRET_NAME.sub("", name)))


def plain(text: str) -> str:
    """`text` with what looks like a secret masked, and the home folder written as ~."""
    text = _SECRET_VALUE.sub(_MASK, _URL_PASSWORD.sub(rf"\1{_MASK}@", text))
    text = _SECRET_OPTION.sub(rf"\1{_MASK}", text)
    home = os.path.expanduser("~").rstrip("/")  # noqa: PTH111 - text is replaced, no path is built
    return re.sub(re.escape(home) + r"(?=/|$|:)", "~", text) if len(home) > 1 else text
