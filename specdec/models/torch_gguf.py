"""A GGUF file of any architecture that transformers reads, made into a Hugging Face folder.

    python -m specdec.models.torch_gguf FILE.gguf FOLDER

The package's own converter (`models/fetch/`) makes Llamas, without PyTorch; this one takes
transformers' reader, which needs the accelerate package besides. The folder then opens like any
other. Weights are written as they come out of the quantisation, in float32.
"""

from __future__ import annotations

import sys
from pathlib import Path

from specdec.errors import ModelError, SettingsError
from specdec.models.torch_devices import import_torch


def convert(file: Path, folder: Path) -> Path:
    """Write the model and the tokenizer in `file` into `folder` and return it.

    Raises:
        ModelError: transformers cannot read the file, or a package that it needs is missing.
    """
    if not file.is_file():
        raise ModelError(f"There is no file {file}; give the path of an existing GGUF file.")
    torch = import_torch()
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from specdec.models.torch_load import quietly

    try:
        with quietly():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            model = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float32,
                trust_remote_code=False,
                local_files_only=True,
            )
            model.hf_quantizer = None  # or it would not be saved as the plain model it now is
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            tokenizer.save_pretrained(folder)
            model.save_pretrained(folder)
    except Exception as error:  # whatever the file's content leads it to
        raise ModelError(
            f"transformers cannot read {file} ({type(error).__name__}: {error}); "
            "pip install accelerate if that is what is missing, or choose another file."
        ) from error
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SettingsError("Give a .gguf file and the folder to make of it.")
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
