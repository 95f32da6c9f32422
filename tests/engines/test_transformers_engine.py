"""The transformers engine says what the library's own generation says, whatever the batch."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from pelican.config.recipe import ModelConfig, Sampling
from pelican.engines.transformers import TransformersEngine, completion_logps, load_model, messages
from pelican.errors import UserInputError
from pelican.records import Turn
from pelican.storage.checkpoints import check_checkpoint
from tests.data.factory import clip, picture, sample

CACHED = ModelConfig(dtype="float32", freeze_vision=True, cache_vision=True)
PLAIN = ModelConfig(dtype="float32")
GREEDY = Sampling(temperature=0, max_tokens=12)
WARM = Sampling(temperature=1.0, max_tokens=12)
SAMPLES = [sample(0), clip(1, (0.0, 8.0, 16.0)), sample(2), clip(3, (0.0, 8.0)), sample(4)]


@pytest.fixture(scope="module")
def engine(twin: Path) -> TransformersEngine:
    return TransformersEngine.load(CACHED, twin, 64, 1)


def test_the_encoder_gives_the_ids_of_the_processors_own_chat_template(twin: Path) -> None:
    _, encoder = load_model(PLAIN, twin)
    turns = (
        Turn(role="user", text="What is this?"),
        Turn(role="assistant", text="A cup."),
        Turn(role="user", text="And now?"),
    )
    for one in [*SAMPLES, sample(7, turns=turns)]:
        chat = messages(one, "Think first.")
        frames = iter(one.images)
        for message in chat:
            for item in message["content"] if isinstance(message["content"], list) else []:
                if item["type"] == "image":
                    item["image"] = Image.open(io.BytesIO(next(frames))).convert("RGB")
        theirs = encoder.processor.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        encoder._system_prompt = "Think first."
        ours = encoder.prompt(one)
        assert ours.ids == theirs["input_ids"][0].tolist()
        assert torch.equal(torch.cat([i.rows for i in ours.images]), theirs["pixel_values"])


def test_a_prompts_length_is_told_without_preparing_its_images(twin: Path) -> None:
    _, encoder = load_model(PLAIN, twin)
    odd = [
        sample(5 + i, images=(picture(i, size),)) for i, size in enumerate(((301, 77), (9, 640)))
    ]
    samples = [*SAMPLES, *odd]
    wanted = [len(encoder.prompt(one).ids) for one in samples]
    del encoder.images
    assert [encoder.length(one) for one in samples] == wanted
    assert len(set(wanted)) > 3


def test_an_image_token_in_a_samples_text_is_refused_by_its_id(twin: Path) -> None:
    _, encoder = load_model(PLAIN, twin)
    said = sample(8, turns=(Turn(role="user", text=f"What does {encoder.image_token} mean?"),))
    for measure in (encoder.prompt, encoder.length):
        with pytest.raises(UserInputError, match="sample 's00008' has 1 images and 2 places"):
            measure(said)


def test_greedy_completions_are_those_of_generate(engine: TransformersEngine, twin: Path) -> None:
    model, encoder = load_model(PLAIN, twin)
    ours = [rollouts[0] for rollouts in engine.generate(SAMPLES, GREEDY, 1, 0)]
    for one, rollout in zip(SAMPLES, ours, strict=True):
        prompt = encoder.prompt(one)
        ids = torch.tensor([prompt.ids])
        theirs = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=encoder.token_types(ids),
            max_new_tokens=12,
            do_sample=False,
            **encoder.image_inputs([prompt]),
        )[0, len(prompt.ids) :].tolist()
        assert rollout.completion == encoder.decode(theirs)


def test_a_rollout_depends_on_its_seed_sample_and_index_alone(twin: Path) -> None:
    def completions(batch: int, n: int, samples: list) -> dict:  # type: ignore[type-arg]
        engine = TransformersEngine.load(CACHED, twin, batch, 1)
        return {
            (r.sample_id, r.index): r.completion
            for rollouts in engine.generate(samples, WARM, n, 5)
            for r in rollouts
        }

    whole = completions(64, 4, SAMPLES)
    assert completions(64, 4, SAMPLES) == whole
    assert completions(4, 4, SAMPLES[::-1]) == whole
    few = completions(64, 2, SAMPLES[1:3])
    assert few == {key: whole[key] for key in few}
    assert len(set(whole.values())) > len(SAMPLES)  # rollouts of a sample differ


def test_results_come_in_the_order_of_the_samples(engine: TransformersEngine) -> None:
    ids = [rollouts[0].sample_id for rollouts in engine.generate(SAMPLES, WARM, 2, 0)]
    assert ids == [one.id for one in SAMPLES]


def test_top_p_zero_noise_takes_the_likeliest_token() -> None:
    from pelican.engines.transformers import _sample_token

    logits = torch.tensor([[0.0, 3.0, 1.0]])
    narrow = Sampling(temperature=1.0, top_p=0.5)
    for noise in (0.0, 0.5, 0.999):
        assert _sample_token(logits, narrow, torch.tensor([noise], dtype=torch.float64)).item() == 1


def test_a_draw_from_the_likeliest_tokens_is_scored_as_such(engine: TransformersEngine) -> None:
    narrow = WARM.model_copy(update={"top_p": 0.6})
    prompt = engine.encoder.prompt(SAMPLES[0])
    ((drawn,),) = engine.complete([prompt], narrow, [[3]])

    def logps(top_p: float) -> torch.Tensor:
        found = completion_logps(engine.policy, engine.encoder, [prompt], [drawn], top_p=top_p)
        return torch.tensor(found[0])

    gain = logps(0.6) - logps(1.0)  # minus the log of their mass, which is 0.6 at least
    assert gain.min() >= -1e-6 and gain.max() > 0.01
    assert gain.max() <= -math.log(0.6) + 1e-6
    assert torch.isfinite(logps(0.01)).all()  # what was drawn counts, wherever rounding put it


def test_embeddings_are_the_mean_of_the_towers_features(
    engine: TransformersEngine, twin: Path
) -> None:
    model, encoder = load_model(PLAIN, twin)
    inputs = encoder.image_inputs([encoder.prompt(SAMPLES[1])])
    with torch.no_grad():
        features = model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
    expected = features.pooler_output.mean(0)
    assert torch.allclose(torch.tensor(engine.embed([SAMPLES[1]])[0]), expected, atol=1e-5)


def test_a_folder_that_is_no_checkpoint_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UserInputError, match=r"lacks config.json.*safetensors"):
        check_checkpoint("policy", str(tmp_path))
