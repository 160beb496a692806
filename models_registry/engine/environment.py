"""The environment of every process that runs a model, or code that comes with a model: what it needs, and no secrets.

Such a process could send away whatever it reads there. So a list names what is passed on, not what is kept back: a
secret that somebody sets under a new name is not passed on.
"""

import os
import re
from urllib.parse import urlsplit

# The machine: where programs, libraries and temporary files are, and how text is read.
_NAMES = frozenset((
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM", "TMPDIR", "TEMP", "TMP"),
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "LIBRARY_PATH", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "CC", "CXX"),
    *("VIRTUAL_ENV", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("SPT_NOENV", "DO_NOT_TRACK"),
))  # fmt: skip
# vLLM, PyTorch, and what they compute with.
_PREFIXES = (
    *("LC_", "XDG_", "PYTHON", "VLLM_", "CUDA_", "NVIDIA_", "NCCL_", "NVSHMEM_", "GLOO_", "UCX_", "ROCM_", "ROCR_"),
    *("HIP_", "HSA_", "AMD_", "MIOPEN_", "ONEAPI_", "SYCL_", "ZE_", "CCL_", "OMP_", "KMP_", "GOMP_", "MKL_", "DNNL_"),
    *(
        "ONEDNN_",
        "OPENBLAS_",
        "NUMEXPR_",
        "TORCH",
        "PYTORCH_",
        "TRITON_",
        "INDUCTOR_",
        "FLASHINFER_",
        "FLASH_",
        "ATEN_",
    ),
    *("HF_HOME", "HF_HUB_", "HF_XET_", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_", "TOKENIZERS_", "SAFETENSORS_"),
)
_PROXIES = frozenset(("http_proxy", "https_proxy", "all_proxy", "no_proxy"))
_SECRET = re.compile(r"(^|_)(TOKEN|KEYS?|SECRETS?|PASSWORDS?|PASSWD|CREDENTIALS?|AUTH|DSN)(_|$)")


def minimal(**more: str) -> dict[str, str]:
    """The variables of our own environment that such a process gets, and `more`."""
    return {name: value for name, value in os.environ.items() if _passes(name, value)} | more


def _passes(name: str, value: str) -> bool:
    if name.lower() in _PROXIES:
        return "@" not in urlsplit(value).netloc  # a proxy's URL may have a password in it
    return (name in _NAMES or name.startswith(_PREFIXES)) and not _SECRET.search(name)
