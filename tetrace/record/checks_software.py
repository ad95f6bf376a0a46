"""Checks of torch, cuDNN and Transformer Engine, as a child process that imported them found them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tetrace.record.finding import Finding, Surroundings


def torch(around: Surroundings) -> Iterator[Finding]:
    """Whether torch is there, imports, and reaches the GPU."""
    if not around.probe:
        return
    found, error = around.probe.get("torch"), _error(around, "torch")
    if found is None and "No module named 'torch'" in error:
        said = "is not installed in this Python: of scripts that it runs, nothing is recorded"
        way_out = "install tetrace for the Python that trains: its `python -m pip install .` in tetrace's source folder"
        yield Finding("warn", "torch", said, way_out)
    elif found is None:
        yield Finding("fail", "torch", f"cannot be imported: {error or 'the probe did not get so far'}", _REINSTALL)
    elif around.has_gpu and not found["available"]:
        yield Finding("fail", "torch", f"{_torch(found)} reaches no GPU: {_why(found)}", _TORCH_WAY_OUT)
    else:
        yield Finding("ok", "torch", _torch(found))


_REINSTALL = "reinstall it, then try `python -c 'import torch'` in this Python"
_TORCH_WAY_OUT = "install a torch for a CUDA that this driver runs (see Driver above), or a newer driver"


def _torch(found: Mapping[str, Any]) -> str:
    return f"{found['version']}, " + (f"for CUDA {found['cuda']}" if found["cuda"] else "for CPUs only")


def _why(found: Mapping[str, Any]) -> str:
    return found.get("why") or (
        "it was built without CUDA" if not found["cuda"] else "torch.cuda.is_available() is False"
    )


def cudnn(around: Surroundings) -> Iterator[Finding]:
    """Which cuDNN is loaded, and whether a second one is: two break Transformer Engine's import or its attention."""
    files = around.probe.get("libraries", {}).get("libcudnn", [])
    number = around.probe.get("cudnn")
    version = f"{number // 10000}.{number % 10000 // 100}.{number % 100}" if number else ""
    if len(files) > 1:
        said = f"two are loaded into one process: {' and '.join(files)}"
        way_out = "keep one: take the folder of the other out of LD_LIBRARY_PATH, or uninstall it"
        yield Finding("warn", "cuDNN", said, way_out)
    elif files or version:
        where = f" ({Path(files[0]).name})" if files else ""
        yield Finding("ok", "cuDNN", f"{version or 'version not known'}{where}, loaded once")


def transformer_engine(around: Surroundings) -> Iterator[Finding]:
    """Whether Transformer Engine is there, whole, and imports."""
    if not around.probe:
        return
    found, error = around.probe.get("transformer_engine"), _error(around, "transformer_engine")
    if error:
        yield Finding("fail", "Transformer Engine", f"is installed and cannot be imported: {error}", _te_way_out(error))
    elif not found:
        said = "is not installed: torch's own modules are recorded all the same"
        yield Finding(
            "absent", "Transformer Engine", said, 'pip install --no-build-isolation "transformer_engine[pytorch]"'
        )
    else:
        yield _te(found)


def _te(found: Mapping[str, Any]) -> Finding:
    packages = found["packages"]
    if len(set(packages.values())) > 1:
        said = "its packages are of different releases: " + ", ".join(f"{n} {v}" for n, v in packages.items())
        return Finding("warn", "Transformer Engine", said, "install all of them in one version")
    return Finding("ok", "Transformer Engine", found["version"] or next(iter(packages.values()), "version not known"))


def _te_way_out(error: str) -> str:
    if "undefined symbol" in error:
        return "it was built for another torch, CUDA or cuDNN: install the release for these, or build it here"
    if "cannot open shared object" in error:
        return "install the library that it names, or put its folder into LD_LIBRARY_PATH"
    return "reinstall it, then try `python -c 'import transformer_engine.pytorch'` in this Python"


def recipes(around: Surroundings) -> Iterator[Finding]:
    """FP8 recipes that this GPU, CUDA and TE support, and why not the others."""
    found = around.probe.get("recipes") or []
    supported = [recipe["name"] for recipe in found if recipe["supported"]]
    if supported:
        yield Finding("ok", "FP8 recipes", ", ".join(supported))
    for recipe in found:
        if not recipe["supported"]:
            yield Finding("absent", "FP8 recipes", f"no {recipe['name']}: {recipe['reason'].rstrip('.')}")
    if error := _error(around, "recipes"):
        yield Finding("warn", "FP8 recipes", f"Transformer Engine could not say: {error}", _UNKNOWN)


_UNKNOWN = "nothing to do for a recording; this release of Transformer Engine may be newer than tetrace knows"


def attention(around: Surroundings) -> Iterator[Finding]:
    """Which attention backend TE takes for a usual layer, and why not the others."""
    for found in around.probe.get("attention") or []:
        dropout = f"dropout {found['dropout']:g}" if found["dropout"] else "no dropout"
        case = f"BF16, causal, head size 128, {dropout}"
        if not found["selected"] or found["selected"] == "NoBackend":
            yield Finding("warn", "Attention", f"no backend for {case}{_refusals(found)}", "see the reasons")
        elif found["selected"].startswith("Unfused"):
            way_out = "install flash-attn, or a cuDNN that supports it; unset NVTE_FUSED_ATTN and NVTE_FLASH_ATTN"
            yield Finding("warn", "Attention", f"{case}: only {found['selected']}{_refusals(found)}", way_out)
        else:
            yield Finding("ok", "Attention", f"{case}: {found['selected']}{_refusals(found)}")
    if error := _error(around, "attention"):
        yield Finding("warn", "Attention", f"Transformer Engine could not say: {error}", _UNKNOWN)


def _refusals(found: Mapping[str, Any]) -> str:
    """Why not the other backends, or that they are not installed."""
    said = [f"{refused['backend']} not taken {refused['reason']}" for refused in found["refused"]]
    named = " ".join(refused["backend"] for refused in found["refused"])
    if not found["installed"] and "FlashAttention" not in named and "all backends" not in named:
        said.append("FlashAttention is not installed")
    return "".join(f"; {reason}" for reason in said)


def observer(around: Surroundings) -> Iterator[Finding]:
    """Whether backward kernels can be linked to modules by autograd's own nodes, which needs a C++ compiler once."""
    if around.observer is None or not around.probe.get("torch"):
        return
    if around.observer:
        reason, _, way_out = around.observer.partition("; ")
        said = f"{reason}: backward is recorded the slower way, by hooks"
        yield Finding("warn", "Autograd observer", said, way_out)
    else:
        slower = (
            "; tensors of FP8 inspection are read through their methods, as there is no Python.h (Debian: python3-dev)"
        )
        yield Finding("ok", "Autograd observer", f"built for this torch{'' if around.reads_tensors else slower}")


def _error(around: Surroundings, stage: str) -> str:
    return around.probe.get("errors", {}).get(stage, "")
