"""`model.tiles` against plain transformers with the model's own processor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from tiled_rows import TILED, pictures, plain_tiled_inputs, tiled_rows
from whole_rows import ANSWERS, LENGTH, Folder, make, plain_logits

from mmft.errors import UserError


@pytest.mark.parametrize("kind", TILED)
def test_tokens_logits_and_texts_are_those_of_plain_transformers(kind: str, whole_folder: Folder, shapes: Any) -> None:
    """Seven images of seven proportions, in one batch."""
    model, task, _ = make(whole_folder(kind), shapes, "model.tiles=true")
    batch = tiled_rows(model, task)
    assert batch.images is not None
    assert batch.input_ids is not None
    assert batch.attention_mask is not None
    plain = hf.AutoModelForImageTextToText.from_pretrained(whole_folder(kind)).eval()
    counts = set()
    with torch.no_grad():
        found = model.eval()(batch)
        for row, (answer, image) in enumerate(zip(ANSWERS, pictures(), strict=True)):
            inputs = plain_tiled_inputs(model, row, image)
            own = batch.input_ids[row][batch.attention_mask[row]]
            assert own.where(own >= 0, model.whole.image_token).tolist() == inputs["input_ids"][0].tolist()
            counts.add(int((own < 0).sum()))
            ids = torch.tensor(task.tokenizer.answer(answer))
            wanted = plain_logits(plain, inputs, ids).log_softmax(-1)[range(len(ids)), ids]
            torch.testing.assert_close(found.logits[row, : len(ids)], wanted, atol=1e-5, rtol=1e-5)
            ending = {"eos_token_id": task.tokenizer.eos_token_id, "pad_token_id": 1}
            texts = plain.generate(**inputs, max_new_tokens=LENGTH, do_sample=False, **ending)[0].tolist()
            tokens = [token for token in found.generated[row].tolist() if token >= 0]
            assert tokens == texts[inputs["input_ids"].shape[1] :][: len(tokens)]
    assert len(counts) > 3


@pytest.mark.parametrize("kind", TILED)
def test_a_row_alone_is_the_row_in_a_batch(kind: str, whole_folder: Folder, shapes: Any) -> None:
    model, task, _ = make(whole_folder(kind), shapes, "model.tiles=true")
    images: list[Any] = pictures()
    images[4] = None
    batch = tiled_rows(model, task, images)
    assert batch.image_present.tolist() == [row != 4 for row in range(7)]
    torch.nn.init.normal_(model.missing_image.vector)
    with torch.no_grad():
        together = model.eval()(batch)
        flipped = tiled_rows(model, task, [image if image is None else image[::-1].copy() for image in images])
        assert float((model.score(flipped).logits - together.logits).abs().amax(1).median()) > 1e-4  # they matter
        for row, part in enumerate(batch.split(1)):
            alone = model(part)
            torch.testing.assert_close(alone.logits, together.logits[row : row + 1], atol=2e-6, rtol=0)
            assert torch.equal(alone.generated, together.generated[row : row + 1, : alone.generated.shape[1]])


@pytest.mark.parametrize("kind", ["llava", "paligemma", "gemma3", "blip_2"])
def test_a_processor_that_does_not_cut_is_refused(kind: str, whole_folder: Folder, shapes: Any) -> None:
    with pytest.raises(UserError, match=r"model.tiles=true changes nothing with model.whole=.*makes one square of any"):
        make(whole_folder(kind), shapes, "model.tiles=true")
