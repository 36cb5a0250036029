"""The fake workload with the optional method that makes models of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.workload import Json, Packaged, Spec
from tests.orchestrator.fake import FakeWorkload

LOADER = """
import pathlib
class Model:
    def __init__(self, text): self.text = text
    def predict(self, frame, params=None): return [self.text + str(value) for value in frame["word"]]
def _load_pyfunc(path): return Model((pathlib.Path(path) / "text").read_text())
"""


class PackagingWorkload(FakeWorkload):
    """Makes models that put the text of a checkpoint before a word."""

    def __init__(self, scores: Mapping[str, float] | None = None) -> None:
        self.scores = {} if scores is None else scores

    def package(self, spec: Spec, checkpoint: Path, folder: Path) -> Packaged:
        (folder / "data" / "things").mkdir(parents=True)
        (folder / "data" / "things" / "text").write_text((checkpoint / "state.json").read_text())
        (folder / "code").mkdir()
        (folder / "code" / "loader_of_words.py").write_text(LOADER)
        signature: dict[str, list[dict[str, Json]]] = {
            "inputs": [{"type": "string", "name": "word", "required": True}],
            "outputs": [{"type": "string", "required": True}],
        }
        return Packaged(
            loader="loader_of_words", signature=signature, example={"word": "a"}, requirements=("numpy",),
            scores=self.scores, metadata={"colour": "red"}, description="words.", usage="Ask it.",
        )  # fmt: skip
