"""A trained checkpoint as a registered model: served by MLflow's own command, asked over HTTP, equal to predict."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from hrnet.data.cards import card
from hrnet.draw import overlay
from hrnet.evaluation.inference import view_sizes
from hrnet.serving import example_image, read_served_recipe
from jobs._wiring import HrnetWorkload
from jobs.cli import main
from orchestrator.registry import MODEL_TAG, packaged, register
from orchestrator.settings import Settings
from orchestrator.tracking import Tracker
from tests.conftest import SHARED
from tests.integration import children
from tests.orchestrator.mlflow_store import free_port

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

CELL = "fcn_hr18s_4xb2-40k_cityscapes-512x1024"
SMALL = {
    "max_iters": "4", "val_interval": "4", "log_interval": "1", "crop": "64x64", "batch_size": "2",
    "train_scale": "128x64", "test_scale": "256x128", "tta_ratios": "0.75,1.0", "pretrained": "none", "lr": "0.05",
}  # fmt: skip
REAL = SHARED / "data" / "native" / "cityscapes"


@dataclass(frozen=True, kw_only=True)
class Registered:
    folder: Path
    tracking: str
    uri: str
    checkpoint: Path

    def environment(self) -> dict[str, str]:
        """That of a person who has MLflow, but neither this checkout nor its settings."""
        environment = children.environment(self.folder / "home", MLFLOW_TRACKING_URI=self.tracking)
        del environment["PYTHONPATH"]
        return environment

    def predicted(self, image: Path, *more: str) -> NDArray[np.uint8]:
        """The class map that `hrgrid predict` writes of the same checkpoint."""
        out = self.folder / "predicted"
        assert main(["predict", str(self.checkpoint), str(image), "-o", str(out), "--device", "cpu", *more]) == 0
        return read(out / f"{image.stem}_classes.png")


def read(file: Path) -> NDArray[np.uint8]:
    pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return np.asarray(pixels, dtype=np.uint8)


def decoded(png: bytes | str) -> NDArray[np.uint8]:
    content = base64.b64decode(png) if isinstance(png, str) else png
    return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED), dtype=np.uint8)


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Registered:
    """Four iterations on drawn streets, and what a worker makes of the checkpoint at the end of a trial."""
    folder = tmp_path_factory.mktemp("serving")
    assert main(["data", "synth", "--to", f"{folder}/drawn", "--train", "4", "--val", "2", "--size", "64x128"]) == 0
    assert main(["data", "prepare", f"{folder}/drawn", "--to", f"{folder}/prepared", "--partial"]) == 0
    workload = HrnetWorkload()
    cell = next(cell for cell in workload.cells() if cell.name == CELL)
    spec = workload.resolve(cell, SMALL, seed=3, data=f"{folder}/prepared")
    checkpoint = folder / "checkpoint"
    for event in workload.train(spec, None, cpus=1):
        if event.save is not None:
            checkpoint.mkdir(exist_ok=True)
            event.save(checkpoint)
    tracking = f"sqlite:///{folder}/mlflow.db"
    settings = Settings(
        storage=f"{folder}/results", tracking=tracking, artifacts=f"{folder}/artifacts", benchmark="served"
    )
    tracker = Tracker(tracking, "served", artifacts=settings.artifacts)
    run_id = tracker.start_run("key", spec.title, contested=False)
    assert packaged(workload, spec, "key", checkpoint, settings, folder / "model")
    uri = register(tracker, run_id, folder / "model")
    assert uri == f"models:/served.{CELL}/1" == tracker.tags(run_id)[MODEL_TAG]
    return Registered(folder=folder, tracking=tracking, uri=f"models:/served.{CELL}@best", checkpoint=checkpoint)


@pytest.fixture(scope="module")
def street(registered: Registered) -> Path:
    file = registered.folder / "street.png"
    file.write_bytes(example_image(card("cityscapes")))
    return file


LOAD = """
import sys
from pathlib import Path
import mlflow, numpy, pandas, cv2
model = mlflow.pyfunc.load_model(sys.argv[1])
content = Path(sys.argv[2]).read_bytes()
pixels = cv2.imread(sys.argv[2])
answer = model.predict(pandas.DataFrame({"image": [content, pixels]}))
alone = model.get_raw_model().segment(pixels)
maps = [cv2.imdecode(numpy.frombuffer(png, numpy.uint8), cv2.IMREAD_UNCHANGED) for png in answer["class_map"]]
assert all(numpy.array_equal(alone, each) for each in maps)
import hrnet
assert Path(hrnet.__file__).is_relative_to(sys.argv[4]), hrnet.__file__
facts = model.metadata.metadata
assert facts["classes"][0] == "road" and facts["palette"][0] == [128, 64, 128] and facts["key"] == "key"
assert facts["recipe"]["name"] == facts["cell"] and facts["scores"]["val/mIoU"] >= 0
assert "ray" not in sys.modules
cv2.imwrite(sys.argv[3], alone)
"""


@pytest.fixture(scope="module")
def loading(registered: Registered, street: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that loads the model by its name, without this checkout, while the server starts."""
    words = [registered.uri, str(street), f"{registered.folder}/loaded.png", f"{registered.folder}/artifacts"]
    with subprocess.Popen(
        [sys.executable, "-c", LOAD, *words], cwd=registered.folder, env=registered.environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as program:  # fmt: skip
        yield program
        program.kill()


@pytest.fixture(scope="module")
def server(registered: Registered, loading: object) -> Iterator[str]:
    """The address that the command of the model's own description serves at."""
    port = free_port()
    log = registered.folder / "serve.log"
    environment = registered.environment()
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = ["mlflow", "models", "serve", "-m", registered.uri, "--env-manager", "local", "--port", str(port)]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=registered.folder, env=environment, stdout=stream, stderr=stream, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/ping", timeout=2):
            return True
        return False

    try:
        children.wait_for(answers, 120, "mlflow models serve")
        yield address
    finally:
        children.end(process)
        process.wait()


def ask(address: str, document: dict[str, Any]) -> dict[str, Any]:
    """Send a document to a server; its answer, or the answer with which it refuses, under `status`."""
    request = urllib.request.Request(
        f"{address}/invocations", json.dumps(document).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return {"status": 200, **json.load(answer)}
    except urllib.error.HTTPError as error:
        return {"status": error.code, **json.load(error)}


def asked(image: bytes, **params: object) -> dict[str, Any]:
    document: dict[str, Any] = {"dataframe_records": [{"image": base64.b64encode(image).decode()}]}
    return {**document, **({"params": params} if params else {})}


def test_a_served_model_gives_the_class_map_that_predict_writes(
    server: str, registered: Registered, street: Path
) -> None:
    (answer,) = ask(server, asked(street.read_bytes()))["predictions"]
    served, predicted = decoded(answer["class_map"]), registered.predicted(street)
    assert served.shape == (128, 256) == (answer["height"], answer["width"])
    assert len(np.unique(predicted)) > 1
    assert np.array_equal(served, predicted)
    found = {entry["id"]: entry for entry in answer["classes"]}
    assert set(found) == set(np.unique(predicted))
    for number, entry in found.items():
        assert entry["name"] == card("cityscapes").classes[number]
        assert tuple(entry["colour"]) == card("cityscapes").palette[number]
        assert entry["share"] == pytest.approx(float(np.mean(predicted == number)), abs=1e-6)
    (flipped,) = ask(server, asked(street.read_bytes(), ms_flip=True))["predictions"]
    assert np.array_equal(decoded(flipped["class_map"]), registered.predicted(street, "--ms-flip"))


def test_a_real_image_too(server: str, registered: Registered) -> None:
    image = next(REAL.rglob("*_leftImg8bit.png"), None)
    if image is None:
        pytest.skip(f"no real image beside the checkout ({REAL})")
    (answer,) = ask(server, asked(image.read_bytes()))["predictions"]
    predicted = registered.predicted(image)
    assert predicted.shape == read(image).shape[:2]
    assert np.array_equal(decoded(answer["class_map"]), predicted)


def test_the_server_says_what_is_wrong_with_a_request(server: str, street: Path) -> None:
    said = ask(server, asked(b"no image at all"))
    assert (said["status"], said["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert said["message"].endswith(
        "Error: the image of row 0 (15 bytes) is no image that can be read; give the content of a PNG, JPEG, TIFF, "
        "BMP or WebP file as base64"
    )
    said = ask(server, {"dataframe_records": [{"picture": "abc"}]})
    assert (said["status"], "missing inputs ['image']" in said["message"]) == (400, True)
    said = ask(server, asked(street.read_bytes(), ms_flip="perhaps"))
    assert (said["status"], "ms_flip" in said["message"]) == (400, True)


def test_the_example_beside_the_model_is_a_request(server: str, registered: Registered, street: Path) -> None:
    (example,) = registered.folder.glob("artifacts/**/serving_input_example.json")
    (answer,) = ask(server, json.loads(example.read_text()))["predictions"]
    assert np.array_equal(decoded(answer["class_map"]), registered.predicted(street))


def test_the_clients_in_the_documentation(server: str, registered: Registered, street: Path) -> None:
    page = (
        (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text().replace("127.0.0.1:5001", server[7:])
    )
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (curl,) = [text for language, text in blocks if not language and "curl" in text]
    done = subprocess.run(
        ["bash", "-c", curl.replace("street.jpg", street.name)], cwd=street.parent, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    (answer,) = json.loads(done.stdout)["predictions"]
    predicted = registered.predicted(street)
    assert np.array_equal(decoded(answer["class_map"]), predicted)
    (client,) = [text for language, text in blocks if language == "python" and "urllib" in text]
    drawn = registered.folder / "drawn.png"
    done = subprocess.run(
        [sys.executable, "-c", client, str(street), str(drawn)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0].split() == [
        f"{answer['classes'][0]['share']:.2%}",
        answer["classes"][0]["name"],
    ]
    wanted = overlay(read(street), predicted, card("cityscapes").palette)
    assert np.abs(read(drawn).astype(int) - wanted).max() <= 1


def test_python_loads_it_with_the_code_that_the_model_brings(
    loading: subprocess.Popen[str], registered: Registered, street: Path
) -> None:
    _, said = loading.communicate(timeout=120)
    assert loading.returncode == 0, said
    assert np.array_equal(read(registered.folder / "loaded.png"), registered.predicted(street))


def test_predict_takes_a_registered_model(registered: Registered, street: Path, tmp_path: Path) -> None:
    words = ["predict", registered.uri, str(street), "-o", str(tmp_path), "--device", "cpu"]
    assert main([*words, "--tracking", registered.tracking]) == 0
    assert np.array_equal(read(tmp_path / "street_classes.png"), registered.predicted(street))


def test_the_models_files_hold_weights_and_nothing_of_the_training(registered: Registered) -> None:
    (weights,) = registered.folder.glob("artifacts/**/weights.pth")
    assert weights.stat().st_size < (registered.checkpoint / "state.pt").stat().st_size * 0.6
    recipe = read_served_recipe(weights.parent)
    assert (recipe.name, len(view_sizes(128, 256, recipe))) == (CELL, 2)
    assert "pretrained" not in json.loads((weights.parent / "card.json").read_text())
