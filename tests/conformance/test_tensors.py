"""The Open Inference Protocol against a running network: metadata, inference, errors, by plain HTTP."""

import base64

import httpx2
import pytest

from avow.receipt.commitment import commit, request_parts, response_parts
from avow.receipt.encoding import from_base64url
from avow.receipt.receipt import Receipt

pytestmark = [pytest.mark.network, pytest.mark.model, pytest.mark.xdist_group("network")]


@pytest.fixture(scope="module")
def http(network):
    with httpx2.Client(base_url=network.url, timeout=60) as made:
        yield made


def file_request(content, **changes):
    tensor = {"name": "file", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(content).decode()]}
    return {"inputs": [tensor | changes]}


def test_metadata_names_inputs_and_outputs(http, network):
    metadata = http.get(f"/v2/models/{network.classifier}").json()
    assert set(metadata) == {"name", "versions", "platform", "inputs", "outputs"}
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["file"]
    assert {tensor["name"] for tensor in metadata["outputs"]} >= {"label", "score"}
    for tensor in metadata["inputs"] + metadata["outputs"]:
        assert set(tensor) >= {"name", "datatype", "shape"}


@pytest.mark.parametrize("method", ["vanilla", "tee"])
def test_a_file_gets_its_label_and_a_receipt_for_these_bytes(http, network, method):
    source = b"import os\n\n\ndef main():\n    print(os.getcwd())\n\n\nif __name__ == '__main__':\n    main()\n" * 4
    answer = http.post(
        f"/v2/models/{network.classifier}/infer", json=file_request(source), headers={"avow-method": method}
    )
    assert answer.status_code == 200, answer.text
    outputs = {tensor["name"]: tensor["data"] for tensor in answer.json()["outputs"]}
    label = outputs["label"][0]
    assert "python" in (label, base64.b64decode(label + "===").decode(errors="replace"))
    receipt = Receipt.from_bytes(from_base64url(answer.json()["avow"]["receipt"]))
    private, seed = receipt.statement.private, from_base64url(answer.headers["avow-secret"])
    assert receipt.statement.columns.method.label == method
    parts = request_parts(f"POST /v2/models/{network.classifier}/infer", answer.request.content)
    assert commit("request", seed, parts) == private.request
    assert commit("response", seed, response_parts(answer.content)) == private.response


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"datatype": "FP32", "data": [1.0]},
        {"shape": [2]},
        {"data": ["?"]},
        {"data": []},
        {"shape": [-1]},
        {"data": [[["x"]]]},
    ],
)
def test_wrong_names_types_and_shapes_are_refused(http, network, changes):
    answer = http.post(f"/v2/models/{network.classifier}/infer", json=file_request(b"x", **changes))
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"]


def test_a_chat_program_takes_no_tensors_and_the_other_way_round(http, network):
    answer = http.post(f"/v2/models/{network.chat_model}/infer", json=file_request(b"x"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "wrong_endpoint")
    chat = {"model": network.classifier, "messages": [{"role": "user", "content": "x"}]}
    answer = http.post("/v1/chat/completions", json=chat)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "wrong_endpoint")
